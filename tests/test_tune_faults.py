"""Studies whose workers are killed: every trial ends in one state, the count is exact, nothing is
trained twice, and nothing is left running, on a journal and on a real PostgreSQL.

Real processes and real kills. Where many workers are needed their training is pretended
(`tests.tuning_worker`); one study is trained for real.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
import pytest

from spam_lab.config.schema import StudyConfig
from spam_lab.orchestrate.expand import load_study
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.tune.journal import Journal
from spam_lab.orchestrate.tune.ongoing import RUN_ID
from spam_lab.orchestrate.tune.progress import outcome, standing
from spam_lab.orchestrate.tune.space import space_of
from spam_lab.orchestrate.tune.storage import ADDRESS, StudyFolder, begin, flocked, open_study
from spam_lab.orchestrate.tune.worker import StudyOrder
from spam_lab.orchestrate.tune.workers import StudyWorkers
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, run_directories, sweep_manifests
from tests.postgres import Postgres, ensure_installed, running_postgres
from tests.processes import launched, run_launch, wait_for
from tests.tuning_lab import SHORT, host, worker_pids
from tests.tuning_worker import DEATHS, PLACES, STEPS

SEED = 20260901


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if reason := ensure_installed():
        pytest.skip(reason)
    with running_postgres() as server:
        yield server


class Pretending(StudyWorkers):
    """Workers that pretend to train."""

    def command(self, number: int) -> Sequence[str]:
        _, _, _, path, index = super().command(number)
        return [sys.executable, "-m", "tests.tuning_worker", path, index]

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]


def begun(
    root: Path, where: Host, trials: int, storage: str = "journal", pruner: str = "hyperband"
) -> tuple[StudyOrder, optuna.Study]:
    definition = load_study("theta_delta_t")
    config = StudyConfig(
        name=definition.name, trials=trials, storage=storage, startup_trials=4, pruner=pruner
    )
    folder = StudyFolder(root, definition.name, "nano")
    short = [*SHORT, f"schedule.steps={STEPS}", "schedule.warmup_steps=1", "evaluation.every=1"]
    begin(folder, definition, space_of(definition, short), short, config)
    return StudyOrder(root, "nano", config, tuple(short), where), open_study(folder, config)


def require_exact(order: StudyOrder, study: optuna.Study, trials: int) -> None:
    """Every trial has ended in one state, and says what its run says; nothing else is there."""
    found = study.get_trials(deepcopy=False)
    assert [trial.number for trial in found] == list(range(trials))
    assert {outcome(trial) for trial in found} <= {"complete", "pruned", "failed"}
    directories = {d.run_id: d for d in run_directories(order.root)}
    assert {trial.user_attrs[RUN_ID] for trial in found} == set(directories)
    for trial in found:
        directory = directories[trial.user_attrs[RUN_ID]]
        states = [line["state"] for line in directory.history()]
        assert states.count("done") == (outcome(trial) == "complete"), "trained once"
        if outcome(trial) == "complete":
            assert states[-1] == "done"
            assert directory.status().state is State.DONE
            assert trial.value == directory.metrics()[-1].values["validation/loss"]
            assert sorted(trial.intermediate_values) == list(range(1, STEPS + 1))
        elif outcome(trial) == "pruned":
            assert directory.status().state is State.PREEMPTED
        steps = [line.step for line in directory.metrics()]
        assert steps == sorted(set(steps)), "no step twice"
    (manifest,) = sweep_manifests(order.root)
    assert set(manifest.trials) == set(directories)
    assert not [t for t in manifest.trials.values() if t.endswith("running")]


@pytest.mark.parametrize("storage", ["journal", "database"])
def test_workers_killed_at_random_leave_every_trial_in_one_state(
    tmp_path: Path,
    cache: Path,
    storage: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight workers; one after another is killed with SIGKILL, and replaced."""
    if storage == "database":
        monkeypatch.setenv(ADDRESS, request.getfixturevalue("postgres").uri)
    chance, trials, killed = random.Random(SEED), 40, 0
    order, study = begun(tmp_path / "runs", host(tmp_path / "runs", cache), trials, storage)
    workers = Pretending(order, 8, study)
    following = 0.0

    def kill() -> None:
        nonlocal killed, following
        moved = len(study.get_trials(deepcopy=False))
        alive = workers.pids()  # none at the last look, when the last worker has ended
        if not alive or moved < 4 or killed >= 8 or time.monotonic() < following:
            return
        os.kill(chance.choice(alive), signal.SIGKILL)
        killed += 1
        following = time.monotonic() + chance.uniform(0.1, 0.8)

    workers.search(kill)
    assert killed >= 4
    require_exact(order, study, trials)
    assert standing(study).states["fail"] == 0, "a killed worker costs no trial"


def test_a_worker_may_die_at_every_place(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two things that it does, and in the middle of a line of the journal."""
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    monkeypatch.setenv(DEATHS, str(deaths))
    order, study = begun(tmp_path / "runs", host(tmp_path / "runs", cache), 6, pruner="none")
    Pretending(order, 2, study).search()
    assert sorted(path.name for path in deaths.iterdir()) == sorted(PLACES)
    require_exact(order, study, 6)
    failed = [t for t in study.get_trials(deepcopy=False) if outcome(t) == "failed"]
    assert {t.user_attrs["reason"].partition(":")[0] for t in failed} <= {
        "its worker died 2 times"  # which may happen to one that is hit while it is trained
    }
    assert len(failed) <= 1, "no other death costs a trial"


def test_a_run_that_kills_its_workers_is_a_failed_trial(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that needs more memory than there is: the study goes on without it."""
    order, study = begun(tmp_path / "runs", host(tmp_path / "runs", cache), 3, pruner="none")
    workers = Pretending(order, 1, study)

    def kill() -> None:
        """Whoever trains the first trial."""
        for trial in study.get_trials(deepcopy=False)[:1]:
            if trial.state.name == "RUNNING" and RUN_ID in trial.user_attrs:
                status = RunDirectory(order.root, trial.user_attrs[RUN_ID]).status()
                if status.state is State.RUNNING and status.pid in workers.pids():
                    os.kill(status.pid, signal.SIGKILL)

    monkeypatch.setattr("spam_lab.orchestrate.processes.POLL_SECONDS", 0.01)
    workers.search(kill)
    found = study.get_trials(deepcopy=False)
    assert [outcome(trial) for trial in found] == ["failed", "complete", "complete"]
    assert "its worker died 2 times: killed by SIGKILL" in found[0].user_attrs["reason"]


def test_workers_that_cannot_even_start_are_not_started_for_ever(
    tmp_path: Path, cache: Path
) -> None:
    order, study = begun(tmp_path / "runs", host(tmp_path / "runs", cache), 3)

    class Broken(StudyWorkers):
        def command(self, number: int) -> Sequence[str]:
            return [sys.executable, "-c", "raise SystemExit('no such library')"]

    with pytest.raises(RuntimeError, match=r"workers die .exit code 1.: no such library"):
        Broken(order, 1, study).search()


def test_real_trainings_survive_a_killed_worker_and_a_killed_launcher(
    tmp_path: Path, cache: Path
) -> None:
    """No orphans are left, and the next launch goes on from the checkpoints."""
    root = tmp_path / "runs"
    command = ["study=theta_delta_t", "study.trials=2", "study.workers=2", "study.pruner=none"]
    command += [*SHORT, "schedule.steps=400", "evaluation.every=200", f"paths.cache={cache}"]
    command += [f"paths.runs={root}"]
    with launched(command) as process:
        wait_for(lambda: bool(middle(root)), 120, "a trial in its middle")
        hit = middle(root)[0]
        os.kill(hit.status().pid, signal.SIGKILL)
        wait_for(lambda: hit.status().attempt == 2, 120, "its run to be taken up")
        process.kill()
        process.wait()
        wait_for(lambda: not worker_pids(), 30, "workers to notice")
    assert State.RUNNING not in {d.status().state for d in run_directories(root)}
    code, output = run_launch(command)
    assert code == 0, output
    assert "2 trials: 2 complete" in output
    assert {d.status().state for d in run_directories(root)} == {State.DONE}
    assert hit.status().attempt == 3


def middle(root: Path) -> list[RunDirectory]:
    """Runs that are being trained and have a checkpoint."""
    return [
        d
        for d in run_directories(root)
        if d.status().state is State.RUNNING and d.status().checkpoint_step > 10
    ]


def append(path: Path, count: int) -> None:
    for number in range(count):
        Journal(path).append_logs([{"who": os.getpid(), "n": number}, {"more": "x" * 5000}])


def test_a_journal_loses_no_line_of_many_writers(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append, args=(path, 25)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(list(Journal(path).read_logs(0))) == 4 * 25 * 2


@pytest.mark.parametrize("rest", [b'{"half', b'{"whole": 1}'])
def test_half_a_line_is_taken_out_by_the_next_writer(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "journal.log"
    first, reader = Journal(path), Journal(path)
    first.append_logs([{"n": 1}])
    with path.open("ab") as file:
        file.write(rest)
    assert list(reader.read_logs(0)) == [{"n": 1}]
    first.append_logs([{"n": 2}])
    assert list(reader.read_logs(1)) == [{"n": 2}]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"n": 1}, {"n": 2}]


def hold(path: Path) -> None:
    with flocked(path):
        path.with_name("held").touch()
        signal.pause()


def test_a_lock_is_free_as_soon_as_its_holder_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = multiprocessing.get_context("fork").Process(target=hold, args=(path,))
    holder.start()
    wait_for((tmp_path / "held").exists)
    holder.kill()
    start = time.monotonic()
    with flocked(path):
        assert time.monotonic() - start < 5
    holder.join()
