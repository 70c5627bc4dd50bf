"""The command: its output, its one-line errors, and what it does when runs are missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from analysis.__main__ import main
from spam_lab.config.fields import ConfigError
from spam_lab.orchestrate.grid import Sweep
from tests.analysis_store import FakeRequest, Outcome, make_store, requests_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stand-in requests in place of composed ones; the overrides that were asked for."""
    seen: list[list[str]] = []

    def expand(sweep: Sweep, overrides: Sequence[str], tuned: None) -> list[FakeRequest]:
        seen.append(list(overrides))
        if "optimizer.thetta=1" in overrides:
            raise ConfigError("optimizer.thetta is not known\ndid you mean optimizer.theta?")
        return requests_of(sweep)

    monkeypatch.setattr("spam_lab.orchestrate.expand.expand", expand)
    return seen


@pytest.fixture
def runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs whose record holds all of table10 but one run."""
    from sweeps.table10 import sweep

    def outcome(request: FakeRequest) -> Outcome | None:
        own = (request.labels["panel"], request.labels["value"], request.seed)
        lost = own == ("llama_60m", "adam", 2)
        return None if lost else Outcome(5 + request.seed / 100)

    folder = tmp_path / "runs"
    shared = tmp_path_factory.getbasetemp()
    make_store(shared, folder / "mlflow.db", "table10", requests_of(sweep()), outcome)
    return folder


def test_missing_runs_are_refused_in_one_line(
    asked: list[list[str]], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["table10", "--runs", str(runs), "--reports", str(tmp_path / "reports")]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "1 of 54 runs have no result (1 missing), in the cells llama_60m=adam" in error
    assert "python launch.py sweep=table10 scale=nano." in error
    assert not (tmp_path / "reports").exists()


def test_incomplete_on_request(
    asked: list[list[str]], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = tmp_path / "reports"
    words = ["table10", "--runs", str(runs), "--reports", str(reports), "--allow-incomplete"]
    assert main([*words, "data=embedded"]) == 0
    assert asked == [["scale=nano", "data=embedded"]]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        str(reports / "nano" / f"table10.{suffix}") for suffix in ("png", "svg", "csv", "md")
    ]
    text = Path(printed[-1]).read_text()
    assert "python -m analysis table10 scale=nano data=embedded --allow-incomplete" in text
    assert "(incomplete: 1 of 3 missing)" in text
    assert str(tmp_path) not in text


def test_no_record_at_all(
    asked: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figure9", "--runs", str(tmp_path / "none")]) == 1
    assert "57 of 57 runs have no result (57 missing)" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name an exhibit: "),
        (["figure99"], "exhibit figure99 is not known: one of "),
        (["figure9", "--scale", "nano", "scale=small"], "give the scale once"),
        (["figure9", "optimizer.thetta=1"], "thetta is not known did you mean"),
    ],
)
def test_errors_are_one_line(
    asked: list[list[str]],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_scale_can_be_given_either_way(asked: list[list[str]], tmp_path: Path) -> None:
    for arguments in (["--scale", "small"], ["scale=small"], []):
        main(["table10", *arguments, "--runs", str(tmp_path)])
    assert asked == [["scale=small"], ["scale=small"], ["scale=nano"]]


def test_list_as_a_user_calls_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "analysis", "--list"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"figure9", "tuning"} < set(names) and names[-2:] == ["ledger", "report"]
    assert "How does SPAM depend on" in done.stdout


def test_a_bad_override_is_refused_once_not_once_a_cell(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["figure9", "optimzer.lr=1"]) == 1
    error = capsys.readouterr().err
    assert error.count("did you mean optimizer.lr") == 1
    assert error.count("\n") == 1
    assert len(error) < 400
