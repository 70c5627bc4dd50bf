"""`spam-lab ui --study`: Optuna's dashboard over a study, and what is said where it cannot be."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import optuna
import psutil
import pytest

from spam_lab.cli import main
from tests.conftest import ROOT
from tests.tuning_lab import of_rates, part

MISSING = importlib.util.find_spec("optuna_dashboard") is None


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A study with one trial."""
    study = part(tmp_path / "runs", of_rates()).study
    study.tell(study.ask({"optimizer.lr": optuna.distributions.FloatDistribution(0, 1)}), 2.5)
    return tmp_path / "runs"


@pytest.mark.skipif(MISSING, reason="optuna-dashboard is not installed")
def test_the_dashboard_shows_the_study_and_leaves_no_process(runs: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "spam_lab.cli", "ui", "--runs", str(runs), "--study", "tiny"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
    )
    try:
        assert process.stdout is not None
        assert "starting Optuna's dashboard on 127.0.0.1:" in process.stdout.readline()
        name, page = process.stdout.readline().strip().split(": ", 1)
        assert name == "tiny.nano" and page.startswith("http://127.0.0.1:")
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        assert b"<html" in urlopen(page, timeout=20).read()
        address, _, number = page.partition("/dashboard/studies/")
        shown = json.load(urlopen(f"{address}/api/studies/{number}?after=0", timeout=20))
        assert [trial["values"] for trial in shown["trials"]] == [[2.5]]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stdout.read().splitlines()[-1] == "stopped"
        assert psutil.wait_procs(family, timeout=5)[1] == []
    finally:
        process.kill()
        process.wait()


def test_a_dashboard_that_cannot_be_says_why(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*more: str) -> str:
        assert main(["ui", "--runs", str(runs), "--study", *more]) == 1
        return capsys.readouterr().err

    assert "no study other was begun under" in said("other")
    assert "tiny.nano" in said("tiny", "--scale", "paper")
    assert "it listens on 127.0.0.1 only" in said("tiny", "--host", "0.0.0.0")
    assert "a study's pages have no password" in said("tiny", "--auth")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "spam_lab.commands.dashboard.importlib.util.find_spec",
        lambda name: None if name == "optuna_dashboard" else found(name),
    )
    error = said("tiny")
    assert 'pip install -c constraints.txt -e ".[dashboard]"' in error and error.count("\n") == 1
