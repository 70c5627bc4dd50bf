"""The live record: cheap while nothing changes, never stopped by a store that is away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spam_lab.cli import main
from spam_lab.record import watch as watch_module
from spam_lab.record.mlflow_store import RefusedError, TrackingError
from spam_lab.record.state import State
from spam_lab.record.store import StoreError, SweepManifest
from spam_lab.record.tracking import SyncReport, sync
from spam_lab.record.watch import Watch
from tests.conftest import ROOT
from tests.processes import wait_for
from tests.tracking_case import GrowingRun, content_of, finished_runs, local_uri


class Script:
    """What happens in each pause of a watch, in order, and what came of it."""

    def __init__(self, *events: Callable[[], object]) -> None:
        self.pauses: list[float] = []
        self.told: list[str] = []
        self._events = iter(events)

    def watch(self, root: Path, seconds: float = 30.0) -> Watch:
        return Watch(root, local_uri(root), seconds, self.told.append, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        next(self._events)()


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Exception | State]]:
    """What each sync is to come to: an error, or the state of the only run. All are used."""
    left: list[Exception | State] = []

    def stand_in(root: Path, uri: str, **_: object) -> SyncReport:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        report = SyncReport("a store")
        report.states[outcome] = 1
        return report

    monkeypatch.setattr(watch_module, "sync", stand_in)
    yield left
    assert left == []


def change(root: Path) -> None:
    """Something for a watch to see."""
    GrowingRun(root, len(list(root.iterdir())))


def nothing() -> None:
    """A pause in which nothing happens."""


def test_the_live_record_is_that_of_one_sync(tmp_path: Path) -> None:
    """A run grows, is preempted and ends under a watch, while another sync runs in between; a run
    that a sweep asks for is waited for until it is there."""
    uri = local_uri(tmp_path)
    SweepManifest("figure9", "nano", [f"{0:016x}", f"{1:016x}"]).write(tmp_path)
    run = GrowingRun(tmp_path, 0)
    script = Script(
        lambda: run.start().train(20).checkpoint(),
        lambda: (run.train(4).checkpoint(), sync(tmp_path, uri)),
        lambda: run.train(5).end(State.PREEMPTED),
        lambda: run.start().train(20).end(State.DONE),
        nothing,
        lambda: GrowingRun(tmp_path, 1).start().train(9).end(State.DIVERGED),
    )
    report = script.watch(tmp_path).until_all_have_ended()
    assert (report.states[State.DONE], report.states[State.DIVERGED]) == (1, 1)
    once = f"sqlite:///{tmp_path / 'once.db'}"
    sync(tmp_path, once)
    assert content_of(uri) == content_of(once)
    assert script.told == [
        "1 new, 0 updated, 0 unchanged",
        "0 new, 1 updated, 0 unchanged",
        "0 new, 1 updated, 0 unchanged",  # and nothing of what the sync between had recorded
        "0 new, 1 updated, 0 unchanged",
        "1 new, 0 updated, 1 unchanged",
    ]


def test_the_store_is_left_alone_while_nothing_changes(
    tmp_path: Path, outcomes: list[Exception | State]
) -> None:
    change(tmp_path)
    outcomes += [State.RUNNING, State.DONE]  # two syncs for six looks
    script = Script(nothing, nothing, nothing, nothing, lambda: change(tmp_path))
    script.watch(tmp_path).until_all_have_ended()
    assert script.pauses == [30.0] * 5


def test_a_store_that_is_away_is_said_once_and_tried_ever_more_slowly(
    tmp_path: Path, outcomes: list[Exception | State]
) -> None:
    change(tmp_path)
    gone: list[Exception | State] = [TrackingError("no server."), ValueError("half an answer")]
    gone += [RefusedError("who are you?"), StoreError("a manifest"), TrackingError("no server.")]
    outcomes += [State.RUNNING, *gone, State.RUNNING, TrackingError("gone again."), State.DONE]
    look = Script(lambda: change(tmp_path), *[nothing] * 5, lambda: change(tmp_path), nothing)
    look.watch(tmp_path).until_all_have_ended()
    assert look.pauses == [30.0, 30.0, 60.0, 120.0, 240.0, 240.0, 30.0, 30.0]
    ending = "It is tried again until it works; nothing is lost."
    back = "the record at a store can be used again"
    assert look.told[1:] == [f"no server. {ending}", back, f"gone again. {ending}", back]


def test_an_unexpected_error_is_told_without_the_password(
    tmp_path: Path, outcomes: list[Exception | State]
) -> None:
    change(tmp_path)
    outcomes += [KeyError("http://me:p%40ss@host and p@ss"), State.DONE]
    told: list[str] = []
    watch = Watch(tmp_path, "http://me:p%40ss@host", 1, told.append, sleep=lambda _: None)
    watch.until_all_have_ended()
    assert "http://me:***@host and ***" in told[0]


def test_a_first_sync_that_is_refused_ends_the_watch(
    tmp_path: Path, outcomes: list[Exception | State]
) -> None:
    outcomes += [RefusedError("who are you?")]
    with pytest.raises(RefusedError):
        Script().watch(tmp_path).until_all_have_ended()


def test_no_runs_at_all_are_waited_for(tmp_path: Path) -> None:
    """As is a folder that vanishes for a while, as network folders do."""
    root = tmp_path / "runs"
    root.mkdir()
    script = Script(
        lambda: GrowingRun(root, 0).start(),
        lambda: root.rename(tmp_path / "away"),
        lambda: (tmp_path / "away").rename(root),
        lambda: GrowingRun(root, 1).start().train(3).end(State.DONE),
        lambda: shutil.rmtree(root / f"{0:016x}"),
    )
    report = script.watch(root).until_all_have_ended()
    assert report.states.total() == 1
    assert len([line for line in script.told if "no such folder" in line]) == 1
    assert len([line for line in script.told if "can be used again" in line]) == 1


def test_a_damaged_run_is_named_once_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_runs(tmp_path, 2)
    (tmp_path / "0bad").mkdir()
    (tmp_path / "0bad" / "config.json").write_text("{")
    assert main(["sync", "--runs", str(tmp_path), "--watch", "0.1"]) == 1
    output = capsys.readouterr().out
    assert output.count("left out: ") == 1
    assert "every run has ended and is recorded: 2 done" in output


def test_ctrl_c_stops_a_watch_and_says_what_had_not_ended(tmp_path: Path) -> None:
    finished_runs(tmp_path, 2)
    GrowingRun(tmp_path, 2).start().train(10).checkpoint()
    printed = tmp_path / "printed"
    command = [sys.executable, "-m", "spam_lab.cli", "sync", "--runs", str(tmp_path), "--watch"]
    with printed.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ)
        )

    def synced() -> bool:
        assert process.poll() is None, printed.read_text()
        return "3 new" in printed.read_text()

    try:
        wait_for(synced, what="the first sync")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    text = printed.read_text()
    assert "looking every 30 s" in text and "Traceback" not in text
    assert text.splitlines()[-1].endswith(
        "stopped: 1 of 3 runs had not ended when they were last recorded"
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_pause_that_makes_no_sense_is_refused(
    seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["sync", "--runs", str(tmp_path), f"--watch={seconds}"])
    assert "is not a number of seconds above 0" in capsys.readouterr().err


def test_a_watch_that_is_stopped_while_it_tells_knows_what_it_tells(tmp_path: Path) -> None:
    """A Ctrl-C can come at any word: what has been recorded is known by then."""
    finished_runs(tmp_path, 2)

    def stopped(line: str) -> None:
        if "2 new" in line:
            raise KeyboardInterrupt

    watch = Watch(tmp_path, local_uri(tmp_path), 0.1, stopped)
    with pytest.raises(KeyboardInterrupt):
        watch.until_all_have_ended()
    assert watch.report is not None and watch.report.states.total() == 2
