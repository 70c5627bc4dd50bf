"""`spam-lab logs`: the right run's log, its end, what is added, and what its job printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spam_lab.cli import main
from spam_lab.record.state import State
from tests.conftest import ROOT
from tests.made_runs import beat, make_run, submitted


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Four runs, two of which begin alike."""
    for run_id, theta, seed in (("ab12", 50, 0), ("ab34", 50, 1), ("cd56", 500, 0), ("ef78", 9, 0)):
        make_run(tmp_path, run_id, "failed", theta=theta, seed=seed, reason="ValueError: no")
        (tmp_path / run_id / "log.txt").write_text(f"a word of {run_id}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("cd56", "cd56"),
        ("ab1", "ab12"),
        ("AB1", "ab12"),
        ("spam llama_60m theta=500 seed=0", "cd56"),
        ("seed=1", "ab34"),
        ("seed=0 theta=9", "ef78"),
    ],
)
def test_a_run_is_found_by_what_is_its_alone(
    name: str, meant: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", name, "--runs", str(runs)]) == 0
    told = capsys.readouterr()
    assert told.out == f"a word of {meant}\n"
    assert str(runs / meant / "log.txt") in told.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ab", "'ab' fits 2 runs: ab12 (spam llama_60m seed=0); ab34 (spam llama_60m seed=1)"),
        ("seed=0", "'seed=0' fits 3 runs: ab12"),
        ("cd57", "no run is called 'cd57' here; did you mean cd56?"),
        ("zz", "no run is called 'zz' here: spam-lab status shows the runs there are"),
        ("spam llama_60m theta=501 seed=0", "did you mean spam llama_60m theta=500 seed=0 (cd56)"),
    ],
)
def test_a_name_that_is_not_clear_is_refused(
    name: str, said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", name, "--runs", str(runs)]) == 1
    told = capsys.readouterr()
    assert (told.out, said in told.err) == ("", True), told.err


def test_the_end_of_a_long_log(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "cd56" / "log.txt").write_text("".join(f"line {k}\n" for k in range(100_000)))
    assert main(["logs", "cd56", "--lines", "3", "--runs", str(runs)]) == 0
    assert capsys.readouterr().out == "line 99997\nline 99998\nline 99999\n"


def test_a_run_that_printed_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "aa", "done")
    assert main(["logs", "aa", "--runs", str(tmp_path)]) == 0
    assert "has printed nothing yet" in capsys.readouterr().out
    assert main(["logs", "aa", "--job", "--runs", str(tmp_path)]) == 1
    assert "no SLURM job was ever given aa" in capsys.readouterr().err


def test_what_the_last_job_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "aa", "failed", job="7_1", reason="ValueError: no")
    folder = submitted(tmp_path, ("7_0", ["aa"])).jobs_folder
    other = submitted(tmp_path, ("7_1", ["aa"]), ("7_11", ["bb"])).jobs_folder
    (folder / "7_0_0_log.out").write_text("the first job\n")
    (other / "7_1_1_log.out").write_text("its second process\n")
    (other / "7_1_0_log.out").write_text("the second job\n")
    (other / "7_11_0_log.out").write_text("another run's\n")
    assert main(["logs", "aa", "--job", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "the second job\n"


def test_following_a_run_to_its_end(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "aa", "running")
    beat(directory, host="here")
    process = subprocess.Popen(
        [sys.executable, "-m", "spam_lab.cli", "logs", "aa", "-f", "--runs", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    assert "nothing printed yet" in process.stderr.readline()
    directory.log_path.write_text("one\n")
    assert process.stdout.readline() == "one\n"
    with directory.log_path.open("a") as log:
        log.write("two\n")
    assert process.stdout.readline() == "two\n"
    with directory.log_path.open("a") as log:
        log.write("the last word\n")
    directory.move(State.FAILED, reason="ValueError: no")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "the last word\n", "aa is failed\n")
