"""`spam-lab status` over real run directories: counts, lost runs, reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from spam_lab.cli import main
from spam_lab.files import read_json, write_json
from spam_lab.record.store import SweepManifest, run_directories


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
    assert f"figure9 (nano): 2 runs: 1 planned, 1 {state}" in output
    assert f"{shown}{directory.run_id} (spam llama_60m seed=0): " in output
    assert ("step 24/24" if state == "running" else "the disk fell over") in output
    assert path.read_bytes() == before


def test_an_unknown_sweep_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "figure8", "--runs", str(trained)]) == 1
    assert "no sweep figure8 was launched here: none yet" in capsys.readouterr().err
