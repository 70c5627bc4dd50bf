"""`spam-lab doctor`: what it finds, what it advises, and its table of optimizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spam_lab.cli import main
from spam_lab.commands import doctor


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile that works, without its seconds."""
    monkeypatch.setattr(torch, "compile", lambda function: function)


def test_a_line_a_finding(
    compiling: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "not" / "yet"
    assert main(["doctor", "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("ok   versions       python 3.")
    assert any(line.startswith("ok   torch.compile  works") for line in lines)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_runs_that_cannot_be_written_are_to_be_mended(
    compiling: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--runs", str(tmp_path / "file" / "runs"), "--json"]) == 1
    found = {entry["what"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert "Not a directory" in found["runs folder"]["state"]
    assert "--runs DIR" in found["runs folder"]["advice"]


def test_what_runs_can_do_without_is_only_noted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(function: Any) -> Any:
        raise RuntimeError("no compiler\nlong story")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert main(["doctor", "--runs", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "note torch.compile  RuntimeError: no compiler: " in output
    assert "note C++ compiler   none: install g++" in output


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three optimizers, one of which changes its model, timed at the smallest scale."""
    monkeypatch.setattr(doctor, "_names", lambda: ["adam", "galore", "relora"])
    monkeypatch.setattr(doctor, "TIMED_SCALE", "nano")
    monkeypatch.setattr(doctor, "TIMED_STEPS", 2)


def test_optimizers_are_listed(small: None) -> None:
    found = doctor.optimizers()
    adam, galore, relora = found
    assert (adam.name, adam.method, adam.problem) == ("adam", "adam", "")
    assert adam.weight_bytes == 2.0
    assert adam.state_bytes == pytest.approx(4.0, abs=1e-4)
    # GaLore's own arithmetic at 60M: 0.2799 GB in all, over 58.07 M weights.
    assert galore.weight_bytes + galore.state_bytes == pytest.approx(4.8196, abs=1e-3)
    assert adam.times_adamw > 0 and galore.times_adamw > 0
    assert (relora.problem, relora.times_adamw > 0) == ("", True)
    assert adam.learning_rates == {
        "llama_60m": 1e-3,
        "llama_130m": 1e-3,
        "llama_350m": 5e-4,
        "llama_1b": 3e-4,
    }
    text = doctor._shown_optimizers(found)
    assert max(map(len, text.splitlines())) <= 80
    assert adam.source in text and "2.00 + 4.00 B" in text


def test_one_that_fails_does_not_end_the_table(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def timed(overrides: list[str]) -> float:
        if "optimizer=adam" in overrides:
            raise KeyError("exp_avg")
        return 2.5

    monkeypatch.setattr(doctor, "_times_adamw", timed)
    assert main(["doctor", "--optimizers", "--json"]) == 1
    adam, galore, _ = json.loads(capsys.readouterr().out)
    assert adam["problem"] == "KeyError: 'exp_avg'"
    assert (galore["problem"], galore["times_adamw"]) == ("", 2.5)
    assert main(["doctor", "--optimizers"]) == 1
    assert "adam\n  MEND KeyError: 'exp_avg'" in capsys.readouterr().out
