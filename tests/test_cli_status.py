"""`spam-lab status` over real run directories: conditions, reasons, what waits, and --watch."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from spam_lab.cli import main
from spam_lab.commands import status_watch
from spam_lab.commands.overview import Overview
from spam_lab.files import read_json, write_json
from spam_lab.orchestrate.slurm import queue
from spam_lab.orchestrate.slurm.queue import JobInfo, SlurmError
from spam_lab.record.store import SweepManifest, run_directories
from tests.conftest import ROOT
from tests.made_runs import beat, losses, make_run, snapshot, submitted, sweep_of
from tests.slurm_cluster import Cluster


def test_a_finished_run_is_counted(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--runs", str(trained)]) == 0
    assert capsys.readouterr().out == "single runs: 1 run: 1 done\n"


@pytest.mark.parametrize(
    ("state", "shown"),
    [("running", "lost: "), ("failed", "failed: "), ("diverged", "diverged: ")],
)
def test_what_ended_badly_or_was_lost_is_named(
    state: str, shown: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that says it is running but that no live process holds is lost."""
    (directory,) = run_directories(trained)
    path = directory.path / "status.json"
    write_json(path, {**read_json(path), "state": state, "reason": "the disk fell over"})
    before = path.read_bytes()
    SweepManifest("figure9", "nano", [directory.run_id, "never-started"]).write(trained)
    assert main(["status", "figure9", "--runs", str(trained)]) == (0 if state == "diverged" else 1)
    output = capsys.readouterr().out
    condition = "lost" if state == "running" else state
    assert f"figure9 (nano): 2 runs: 1 {condition}, 1 waiting" in output
    assert f"{shown}{directory.run_id} (spam llama_60m seed=0): " in output
    assert ("step 24/24" if state == "running" else "the disk fell over") in output
    assert path.read_bytes() == before


def test_an_unknown_sweep_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "figure8", "--runs", str(trained)]) == 1
    assert "no sweep figure8 was launched here: none yet" in capsys.readouterr().err


def test_a_running_run_has_all_that_is_known_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = {"loss": 5.1234, "tokens_per_second": 4512.3, "seconds_per_step": 0.5, "step": 120}
    beat(make_run(tmp_path, "aa", "running", host="n1", job="12_3", **numbers), age=70)
    before = snapshot(tmp_path)
    assert main(["status", "--runs", str(tmp_path)]) == 0
    assert snapshot(tmp_path) == before, "it writes nothing"
    assert capsys.readouterr().out.splitlines()[1] == (
        "  running: aa (spam llama_60m seed=0): step 120/480, loss 5.123, 4,512 tokens/s, "
        "3 min left, on n1 (job 12_3), not heard of for 70 s"
    )


def test_what_would_go_on_says_with_which_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, "aa", "preempted", reason="asked to stop")
    sweep_of(tmp_path, "aa", "bb")
    assert main(["status", "--runs", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "2 runs: 1 stopped, 1 waiting" in output
    assert (
        f"to go on: python launch.py sweep=figure9 schedule.steps=480 paths.runs={tmp_path}"
        in output
    )


def test_many_bad_ends_are_capped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        reason = f"ValueError: {number} tokens " + "and so on " * 40
        make_run(tmp_path, f"f{number}", "failed", seed=number, reason=reason)
    assert main(["status", "--runs", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("  failed: ") for line in lines[1:]].count(True) == 3
    assert max(map(len, lines)) < 250
    assert "  ... and 5 more failed for the same reason" in lines
    assert "  why: spam-lab why f0" in lines


def test_queued_runs_are_grouped_by_what_they_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [
        JobInfo("7_0", "RUNNING", node="n1"),
        JobInfo("7_1", "PENDING", "Resources"),
        JobInfo("7_2", "PENDING", "Resources"),
        JobInfo("7_3", "PENDING", "Priority"),
    ]
    monkeypatch.setattr(queue, "is_here", lambda: True)
    monkeypatch.setattr(queue, "own_jobs", lambda: jobs)
    runs = [f"a{number}" for number in range(5)]
    beat(make_run(tmp_path, "a0", "running", host="n1", job="7_0", step=3), age=600)
    for run_id in runs[1:]:
        make_run(tmp_path, run_id)
    submitted(tmp_path, ("7_0", ["a0", "a1"]), ("7_1", ["a2"]), ("7_2", ["a3"]), ("7_3", ["a4"]))
    assert main(["status", "--runs", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "5 runs: 1 silent, 4 queued" in output, "its job runs: a silent worker is not dead"
    assert (
        "  2 queued (Resources), 1 queued (behind other runs of a running job), 1 queued (Priority)"
        in output
    )
    assert "not heard of for 10 min, SLURM says RUNNING on n1" in output


def test_a_run_is_not_lost_where_slurm_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent() -> list[JobInfo]:
        raise SlurmError("squeue did not answer")

    monkeypatch.setattr(queue, "is_here", lambda: True)
    monkeypatch.setattr(queue, "own_jobs", silent)
    beat(make_run(tmp_path, "a0", "running", host="n1", job="7", step=3), age=600)
    submitted(tmp_path, ("7", ["a0"]))
    assert main(["status", "--runs", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "1 run: 1 silent" in output
    assert "SLURM cannot be asked (squeue did not answer)" in output


def test_a_run_that_ends_while_it_is_looked_at_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its status was read as running, then it ended, then its lease was gone."""
    from spam_lab.orchestrate import truth

    directory = make_run(tmp_path, "a0", "running", host="n1", step=479)
    real = truth.last_beat

    def ends(path: Path) -> float | None:
        if directory.status().state == "running":
            directory.move(type(directory.status().state).DONE, step=480)
        return real(path)

    monkeypatch.setattr(truth, "last_beat", ends)
    assert main(["status", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "single runs: 1 run: 1 done\n"


def test_slurm_says_what_is_queued(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = slurm.submit("sleep 60", "--hold")
    make_run(tmp_path, "a0")
    submitted(tmp_path, (job, ["a0"]))
    before = snapshot(tmp_path)
    assert main(["status", "--runs", str(tmp_path)]) == 0
    assert "1 queued (JobHeldUser)" in capsys.readouterr().out
    assert snapshot(tmp_path) == before


def test_a_sparkline_has_the_last_losses(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "a0", "running")
    losses(directory, *[9.0] * 500, *[float(k) for k in range(19, 0, -1)], float("nan"))
    found = status_watch.losses(directory.metrics_path)
    assert found[:19] == [float(k) for k in range(19, 0, -1)]
    drawn = status_watch.sparkline(found)
    assert (drawn[0], drawn[18], drawn[19], len(drawn)) == ("█", "▁", "×", 20)
    assert status_watch.sparkline([2.0, 2.0]) == "▁▁"
    assert status_watch.losses(tmp_path / "none") == []


def test_watching_ends_when_nothing_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, "a0", "done")
    make_run(tmp_path, "a1")  # waits, and nobody will begin it
    sweep_of(tmp_path, "a0", "a1")
    assert main(["status", "--watch", "0.1", "--runs", str(tmp_path)]) == 0
    assert "2 runs: 1 done, 1 waiting" in capsys.readouterr().out


def test_watching_prints_lines_where_it_is_piped_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    beat(make_run(tmp_path, "a0", "running", step=120, tokens_per_second=99.0), host="here")
    process = _watching(tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline().decode() for _ in range(2)]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    line = r"\d\d:\d\d:\d\d single runs: 1 run: 1 running \| 25% of steps \| 99 tokens/s\n"
    assert all(re.fullmatch(line, shown) for shown in lines), lines


def test_watching_tells_each_failure_once_where_it_is_piped(tmp_path: Path) -> None:
    numbers = {"step": 120, "seconds_per_step": 0.5}
    beat(make_run(tmp_path, "a0", "running", **numbers), host="here")
    make_run(tmp_path, "a1", "failed", seed=1, reason="the disk fell over")
    sweep_of(tmp_path, "a0", "a1")
    process = _watching(tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline().decode() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    assert re.search(r"62% of steps \| about 3 min left\n$", lines[0]), lines
    assert lines[1].endswith("failed: a1 (spam llama_60m seed=1): the disk fell over\n")
    assert "2 runs: " in lines[2], "a failure is told once"


def test_a_terminal_of_few_lines_shows_what_goes_on(tmp_path: Path) -> None:
    """Finished sweeps are folded, and what several sweeps asked for stands once."""
    beat(make_run(tmp_path, "a0", "running", step=120, seconds_per_step=0.5), host="here")
    make_run(tmp_path, "a1", "done", seed=1)
    for number in range(9):
        sweep_of(tmp_path, "a1", name=f"table{number}")
    sweep_of(tmp_path, "a0", "a1", name="figure1")
    sweep_of(tmp_path, "a0", name="figure2")
    overview = Overview.of(tmp_path)

    def picture(height: int) -> str:
        console = Console(file=io.StringIO(), width=80, height=height, record=True)
        console.print(status_watch._picture(overview, console))
        return console.export_text()

    shown = picture(20)
    assert "9 sweeps have all their results" in shown and "table3 (nano)" not in shown
    assert shown.count("120/480") == 1 and shown.count("62%") == 1 and shown.count("25%") == 1
    assert all(f"table{number} (nano)" in picture(60) for number in range(9))


def test_watching_redraws_in_a_terminal(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "a0", "running", step=120, loss=4.0, seconds_per_step=0.5)
    beat(directory, host="here")
    losses(directory, 6.0, 5.0, 4.0)
    make_run(tmp_path, "a1", "failed", seed=1, reason="the disk fell over " * 9)
    sweep_of(tmp_path, "a0", "a1")
    control, terminal = pty.openpty()
    process = _watching(tmp_path, stdout=terminal, stdin=terminal, stderr=terminal)
    os.close(terminal)
    seen = b""
    end = time.monotonic() + 30
    while b"Ctrl-C" not in seen and time.monotonic() < end:
        seen += os.read(control, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    os.close(control)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    assert re.search(r"spam llama_60m seed=0 +120/480 +4\.000 +3 min +█▄▁", shown), shown
    assert re.search(r"figure9 \(nano\) +\S+ +62% +1 failed, 1 running +3 min", shown), shown
    assert "failed: a1 (spam llama_60m seed=1): the disk fell over" in shown


def _watching(root: Path, **streams: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "spam_lab.cli", "status", "--watch", "0.2", "--runs", str(root)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
        **streams,
    )
