"""`spam-lab retry`: what becomes due again, that results are kept, and that nobody is disturbed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from spam_lab.cli import main
from spam_lab.orchestrate.slurm import queue
from spam_lab.orchestrate.slurm.queue import JobInfo
from spam_lab.record.store import RunDirectory, run_directories
from tests.conftest import tiny_run
from tests.made_runs import beat, make_run, snapshot, submitted, sweep_of
from tests.processes import run_launch


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A sweep with a run in every condition, and a failed one that is in no sweep."""
    make_run(tmp_path, "f1", "failed", seed=1, reason="ValueError: no", checkpoint_step=20)
    make_run(tmp_path, "d1", "diverged", seed=2, reason="loss is nan")
    make_run(tmp_path, "l1", "running", seed=3, lost=4)
    beat(make_run(tmp_path, "r1", "running", seed=4), host="here")
    make_run(tmp_path, "o1", "done", seed=5)
    make_run(tmp_path, "f2", "failed", seed=6, reason="ValueError: no")
    sweep_of(tmp_path, "f1", "d1", "l1", "r1", "o1")
    return tmp_path


def retry(runs: Path, *arguments: str) -> int:
    return main(["retry", *arguments, "--runs", str(runs)])


def test_failed_runs_are_named_with_the_command(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retry(runs, "figure9") == 0
    assert capsys.readouterr().out.splitlines() == [
        "  f1 (spam llama_60m seed=1): was failed, goes on from its checkpoint at step 20",
        "1 run due again; train with:",
        f"  python launch.py sweep=figure9 schedule.steps=480 paths.runs={runs}",
    ]
    assert retry(runs) == 0
    output = capsys.readouterr().out
    assert "2 runs due again" in output and "f2 (spam llama_60m seed=6)" in output


def test_a_lost_run_is_not_taken_for_one_too_many(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retry(runs, "--lost") == 0
    assert "l1 (spam llama_60m seed=3): was lost" in capsys.readouterr().out
    status = RunDirectory(runs, "l1").status()
    assert (status.lost, status.state) == (0, "running")
    assert not RunDirectory(runs, "l1").lease_path.exists()


def test_a_diverged_run_is_moved_aside_and_nothing_is_lost(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(runs / "d1")
    assert retry(runs, "figure9", "--diverged", "--yes") == 0
    output = capsys.readouterr().out
    assert "d1 (spam llama_60m seed=2): loss is nan" in output
    assert "d1 (spam llama_60m seed=2): was diverged, begins anew" in output
    (kept,) = (runs / ".retried").iterdir()
    assert kept.name.startswith("d1.") and snapshot(kept) == before
    assert "d1" not in {directory.run_id for directory in run_directories(runs)}
    assert main(["status", "figure9", "--runs", str(runs)]) == 1
    assert "1 waiting" in capsys.readouterr().out
    make_run(runs, "d1", "diverged", seed=2)
    assert retry(runs, "d1", "--yes") == 0
    assert len(list((runs / ".retried").iterdir())) == 2, "twice within a second"


def test_results_are_not_moved_without_a_word(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(runs)
    assert retry(runs, "--diverged") == 1
    assert "add --yes to agree" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    asked = []
    for answer in ("", "n"):
        monkeypatch.setattr("builtins.input", lambda text, a=answer: (asked.append(text), a)[1])
        assert retry(runs, "o1", "d1") == 1
        assert "nothing was changed" in capsys.readouterr().out
    assert snapshot(runs) == before
    assert "These 2 have results. Move to" in asked[0]
    monkeypatch.setattr("builtins.input", lambda text: "y")
    assert retry(runs, "o1") == 0
    assert not (runs / "o1").exists()


def test_what_is_running_or_queued_is_left_alone(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(runs, "q1", seed=7)
    submitted(runs, ("7", ["q1"]))
    monkeypatch.setattr(queue, "is_here", lambda: True)
    monkeypatch.setattr(queue, "own_jobs", lambda: [JobInfo("7", "PENDING", "Priority")])
    before = snapshot(runs)
    assert retry(runs, "r1", "q1", "--yes") == 1
    output = capsys.readouterr().out
    assert "left alone: r1 (spam llama_60m seed=4): it is running" in output
    assert "left alone: q1 (spam llama_60m seed=7): it is queued" in output
    assert "due again" not in output
    assert snapshot(runs) == before


def test_a_lost_run_that_somebody_took_up_meanwhile_is_left_alone(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from spam_lab.commands import retry as module

    real = module.launch_command

    def taken(*arguments: object) -> str:
        beat(RunDirectory(runs, "l1"), host="here")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "launch_command", taken)
    assert retry(runs, "l1") == 1
    assert "l1 (spam llama_60m seed=3): somebody has just taken it up" in capsys.readouterr().out
    assert RunDirectory(runs, "l1").status().lost == 4


def test_nothing_to_retry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "o1", "done")
    assert retry(tmp_path) == 0
    assert capsys.readouterr().out == "no run there is failed: nothing to retry\n"


def test_the_command_trains_what_was_made_due(
    trained: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real result, moved aside, is trained again by the very line that is printed."""
    (directory,) = run_directories(trained)
    first = directory.metrics()
    # The command of the shared run names the folder that it was made in.
    attempts = [
        a | {"command": ["launch.py", *tiny_run(trained, cache)]} for a in directory.provenance()
    ]
    (directory.path / "provenance.json").unlink()
    for attempt in attempts:
        directory.add_provenance(attempt)
    assert retry(trained, directory.run_id, "--yes") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    program, script, *overrides = shlex.split(line)
    assert (program, script) == ("python", "launch.py")
    code, output = run_launch(overrides)
    assert code == 0, output
    again = directory.metrics()
    assert [m.values["train/loss"] for m in again if "train/loss" in m.values] == [
        m.values["train/loss"] for m in first if "train/loss" in m.values
    ]
