"""Local dispatch with real worker processes: what is done is not run again, what fails is named and
does not stop the rest, and Ctrl-C, killed workers and a killed dispatcher lose nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from spam_lab.config.schema import SCHEMA_VERSION
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, run_directories
from tests.processes import launched, run_launch, steps_logged, wait_for, worker_pids

LONG = ["schedule.steps=100000", "schedule.warmup_steps=10", "train.checkpoint_every=20"]


def runs_of(tiny: list[str]) -> Path:
    return next(Path(o.removeprefix("paths.runs=")) for o in tiny if o.startswith("paths.runs="))


def states(root: Path) -> list[State]:
    return [directory.status().state for directory in run_directories(root)]


def wait_until_training(root: Path, runs: int = 1, lines: int = 3) -> None:
    def training() -> bool:
        return sum(steps_logged(d.path) >= lines for d in run_directories(root)) >= runs

    wait_for(training, 120, "training to start")


def test_a_grid_shares_runs_and_a_second_call_finds_them(tiny: list[str]) -> None:
    """50, 50.0 and 5e1 are one run; the whole grid is there the second time."""
    grid = ["-m", *[o for o in tiny if "theta" not in o], "optimizer.theta=50,50.0,5e1,60"]
    code, output = run_launch(grid)
    assert code == 0, output
    assert "2 runs for 4 requests (2 shared): 2 to run" in output
    assert states(runs_of(tiny)) == [State.DONE, State.DONE]
    before = {d.run_id: d.status() for d in run_directories(runs_of(tiny))}
    code, output = run_launch(grid)
    assert code == 0
    assert "2 already there" in output
    assert {d.run_id: d.status() for d in run_directories(runs_of(tiny))} == before


def test_a_failing_run_is_named_and_does_not_stop_the_others(tiny: list[str]) -> None:
    """One run's corpus cannot be reached; the others are trained, and only it is tried again."""
    root = runs_of(tiny)
    missing = root / "nowhere" / "*.json"
    grid = ["-m", *tiny, "seed=0,1"]
    bad = [
        *tiny,
        "data.source=hub",
        "data.hub_name=local",
        "data.layout=document",
        f"data.files={missing}",
        f"data.validation_files={missing}",
    ]
    code, output = run_launch(bad)
    assert code == 1
    assert "failed: " in output and "nowhere" in output and "log.txt" in output
    code, output = run_launch(grid)
    assert code == 0, output
    assert sorted(states(root)) == [State.DONE, State.DONE, State.FAILED]
    code, output = run_launch(bad)
    assert code == 1
    assert "1 to retry" in output


def test_the_plan_runs_nothing(tiny: list[str]) -> None:
    code, output = run_launch([*tiny, "sweep=table2", "dry_run=true"][len(tiny) :] + tiny[-2:])
    assert code == 0, output
    assert "18 runs: 18 to run. About" in output
    assert "calibration" in output
    assert list(run_directories(runs_of(tiny))) == []


def test_ctrl_c_once_stops_at_a_checkpoint_and_goes_on(tiny: list[str]) -> None:
    root = runs_of(tiny)
    with launched(["-m", *tiny, *LONG, "seed=0,1,2"]) as process:
        wait_until_training(root, runs=2)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopping at the next step, with a checkpoint; again to kill" in output
    assert "goes on from the last checkpoints" in output
    assert worker_pids() == []
    assert sorted(states(root)) == [State.PREEMPTED, State.PREEMPTED, State.SUBMITTED]
    stopped = [d for d in run_directories(root) if d.status().state is State.PREEMPTED]
    assert all(d.status().checkpoint_step > 0 for d in stopped)
    _, output = run_launch(["-m", *tiny, *LONG, "seed=0,1,2", "dry_run=true"])
    assert "1 to run, 2 to resume" in output


def test_ctrl_c_twice_kills_and_loses_nothing(tiny: list[str]) -> None:
    """A worker that cannot reach its next step is killed; its run goes on from a checkpoint."""
    root = runs_of(tiny)
    with launched([*tiny, *LONG]) as process:
        wait_for(lambda: any(d.status().checkpoint_step for d in run_directories(root)), 120)
        for pid in worker_pids():
            os.kill(pid, signal.SIGSTOP)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None, "it waits for its worker"
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert worker_pids() == []
    assert states(root) == [State.RUNNING]
    _, output = run_launch([*tiny, *LONG, "dry_run=true"])
    assert "1 to resume" in output


def test_a_killed_dispatcher_leaves_no_orphans(tiny: list[str]) -> None:
    root = runs_of(tiny)
    with launched([*tiny, *LONG]) as process:
        wait_until_training(root)
        process.kill()
        process.wait()
        wait_for(lambda: not worker_pids(), 30, "workers to notice")
    (directory,) = run_directories(root)
    assert directory.status().state is State.PREEMPTED


def test_a_killed_worker_is_replaced_and_its_run_finished(tiny: list[str]) -> None:
    root = runs_of(tiny)
    more = ["schedule.steps=400", "train.checkpoint_every=10", "evaluation.every=400"]
    with launched([*tiny, *more]) as process:
        wait_until_training(root)
        (pid,) = worker_pids()
        os.kill(pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    (directory,) = run_directories(root)
    assert directory.status().state is State.DONE
    assert directory.status().attempt == 2


def test_a_run_that_kills_its_workers_is_given_up(tiny: list[str]) -> None:
    root = runs_of(tiny)
    with launched([*tiny, *LONG]) as process:
        killed: set[int] = set()
        while process.poll() is None:
            for pid in worker_pids():
                held = [d.status().pid for d in run_directories(root)]
                if pid in held and pid not in killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            time.sleep(0.05)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(killed) == 2
    assert "its worker died 2 times: killed by SIGKILL (out of memory?)" in output


def test_two_dispatchers_share_the_work(tiny: list[str]) -> None:
    """Started together on the same grid, every run is trained exactly once."""
    root = runs_of(tiny)
    grid = ["-m", *tiny, "seed=range(0,4)"]
    with launched(grid) as one, launched(grid) as other:
        outputs = [p.communicate(timeout=240)[0] for p in (one, other)]
    assert set(states(root)) == {State.DONE}, outputs
    assert len(states(root)) == 4
    assert [d.status().attempt for d in run_directories(root)] == [1, 1, 1, 1]


@pytest.mark.parametrize("interrupt", [False, True])
def test_inline_runs_in_this_process(tiny: list[str], interrupt: bool) -> None:
    root = runs_of(tiny)
    with launched([*tiny, "cluster=inline", *(LONG if interrupt else [])]) as process:
        if interrupt:
            wait_until_training(root)
            os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=120)
        assert worker_pids() == []
    assert process.returncode == (130 if interrupt else 0), output
    (state,) = states(root)
    assert state is (State.PREEMPTED if interrupt else State.DONE)


def test_a_run_directory_of_another_schema_is_refused_before_anything(
    tiny: list[str], trained: Path
) -> None:
    (directory,) = run_directories(trained)
    path = directory.path / "config.json"
    own = f'"schema_version": {SCHEMA_VERSION}'
    assert own in path.read_text()
    path.write_text(path.read_text().replace(own, '"schema_version": 0'))
    code, output = run_launch(tiny)
    assert code == 1
    assert f"schema 0, this program uses {SCHEMA_VERSION}" in output
    assert "Traceback" not in output


def test_an_edited_config_is_refused_with_the_difference(tiny: list[str], trained: Path) -> None:
    (directory,) = run_directories(trained)
    path = directory.path / "config.json"
    path.write_text(path.read_text().replace('"theta": 50.0', '"theta": 51.0'))
    code, output = run_launch(tiny)
    assert code == 1
    assert "optimizer.theta: 51.0 -> 50.0" in output


def test_reading_a_run_directory_touches_nothing(tmp_path: Path) -> None:
    RunDirectory(tmp_path, "abc").status()
    assert list(tmp_path.iterdir()) == []
