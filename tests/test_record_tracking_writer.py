"""Any life of a run, with syncs that die at any call, ends in the record of a single sync.

The store is a stand-in that keeps MLflow's rules (points and params cannot be taken out, a start
cannot be moved) and is fast enough for hundreds of lives; the real one is in test_record_tracking.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from spam_lab.record.entries import RunSource
from spam_lab.record.points import ENDED, recordable_points
from spam_lab.record.run_writer import Outcome, RunWriter
from spam_lab.record.state import State
from spam_lab.record.store import SweepManifest
from tests.tracking_case import GrowingRun


class Died(Exception):
    """The sync was killed."""


@dataclass
class StandInStore:
    """The part of MLflow's client that the writer uses, in memory; it may die before a write."""

    runs: dict[str, Any] = field(default_factory=dict)
    calls_left: int | None = None

    def _write(self, run_id: str | None = None) -> Any:
        if self.calls_left is not None:
            if self.calls_left == 0:
                raise Died
            self.calls_left -= 1
        return self.runs[run_id] if run_id else None

    def create_run(self, experiment: str, start_time: int, tags: dict[str, str]) -> Any:
        self._write()
        run_id = f"r{len(self.runs)}"
        self.runs[run_id] = SimpleNamespace(
            start=start_time, end=None, status="RUNNING", tags=dict(tags), params={}, points=set(),
            artifacts={}, deleted=False,
        )  # fmt: skip
        return self.read(run_id)

    def read(self, run_id: str) -> Any:
        run = self.runs[run_id]
        info = SimpleNamespace(run_id=run_id, start_time=run.start, status=run.status)
        data = SimpleNamespace(tags=dict(run.tags), metrics={name for name, *_ in run.points})
        return SimpleNamespace(info=info, data=data)

    def recorded(self) -> Any:
        active = [run_id for run_id, run in self.runs.items() if not run.deleted]
        assert len(active) <= 1
        return self.read(active[0]) if active else None

    def delete_run(self, run_id: str) -> None:
        self._write(run_id).deleted = True

    def get_metric_history(self, run_id: str, name: str) -> list[Any]:
        return [
            SimpleNamespace(step=step, timestamp=time, value=float(value))
            for key, step, time, value in self.runs[run_id].points
            if key == name
        ]

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        for metric in metrics:  # each may be the last
            run = self._write(run_id)
            run.points.add((metric.key, metric.step, metric.timestamp, repr(metric.value)))
        for param in params:
            assert self._write(run_id).params.setdefault(param.key, param.value) == param.value
        for tag in tags:
            self._write(run_id).tags[tag.key] = tag.value

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self._write(run_id).tags[key] = value

    def delete_tag(self, run_id: str, key: str) -> None:
        del self._write(run_id).tags[key]

    def set_terminated(self, run_id: str, status: str, end: int) -> None:
        run = self._write(run_id)
        run.status, run.end = status, end

    def update_run(self, run_id: str, status: str) -> None:
        self._write(run_id).status = status

    def log_artifact(self, run_id: str, path: str) -> None:
        self._write(run_id).artifacts[Path(path).name] = Path(path).read_text()


def write(store: StandInStore, run: GrowingRun, calls: int | None = None) -> Outcome | None:
    source = RunSource.read(run.directory)
    name = "figure9" if source.status.attempt % 2 else "figure2"
    tags = source.tags("a name", [SweepManifest(name, "nano")], "parent")
    store.calls_left = calls
    try:
        return RunWriter(store).write("1", store.recorded(), source, tags)  # type: ignore[arg-type]
    except Died:
        return None
    finally:
        store.calls_left = None


def act(run: GrowingRun, action: str, steps: int) -> None:
    """One thing that happens to a run, where its state allows it."""
    state = run.directory.status().state
    if state is State.RUNNING:
        match action:
            case "train":
                run.train(steps)
            case "checkpoint":
                run.train(steps).checkpoint()
            case "crash":
                run.start()
            case "end":
                ends = [State.FAILED, State.PREEMPTED, State.TIMED_OUT, State.DONE, State.DIVERGED]
                run.end(ends[steps % len(ends)], f"because {steps}")
    elif not state.is_result:
        run.start()


ACTIONS = st.tuples(
    st.sampled_from(["train", "checkpoint", "crash", "end", "start"]), st.integers(1, 12)
)


FAILED_AND_RETRIED: list[tuple[tuple[str, int], int | None]] = [
    (("start", 1), None),
    (("checkpoint", 5), None),
    (("train", 4), None),
    (("end", 5), 6),  # dies when some lines beyond the checkpoint are recorded
    (("start", 1), 0),
    (("train", 9), 0),
    (("end", 8), 0),
]


@settings(max_examples=150, deadline=None)
@example(FAILED_AND_RETRIED)
@given(st.lists(st.tuples(ACTIONS, st.none() | st.integers(0, 60)), max_size=12))
def test_any_life_with_dying_syncs_is_recorded_as_by_one_sync(
    life: list[tuple[tuple[str, int], int | None]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = GrowingRun(Path(folder), 0)
        store = StandInStore()
        for (action, steps), calls in life:
            act(run, action, steps)
            write(store, run, calls)
        write(store, run)
        once = StandInStore()
        write(once, run)
        (expected,) = once.runs.values()
        (found,) = [entry for entry in store.runs.values() if not entry.deleted]
        assert found == expected
        assert write(store, run) is Outcome.UNCHANGED


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS.filter(lambda action: action[0] != "end"), max_size=10))
def test_what_is_chosen_of_a_run_that_goes_on_stays_chosen(life: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = GrowingRun(Path(folder), 0, steps=250).start()
        chosen: set[tuple[str, int, int, str]] = set()
        for action, steps in life:
            act(run, action, steps)
            status = run.directory.status()
            assert status.state not in ENDED
            now = {point.key for point in recordable_points(run.directory.metrics_path, status)}
            assert chosen <= now
            chosen = now


def test_curves_are_thinned_but_keep_both_ends_and_evaluations(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path, 0, steps=1250).start().train(1250).checkpoint().end(State.DONE)
    status = run.directory.status()
    points = recordable_points(run.directory.metrics_path, status)
    steps = [point.step for point in points if point.name == "train/loss"]
    assert steps[0] == 1 and steps[-1] == 1250
    assert {step for step in range(1, 1251) if step % 13 == 0 or step % 10 == 0} < set(steps)
    assert len(steps) == len({step for step in steps if step % 13 == 0 or step % 10 == 0}) + 1
