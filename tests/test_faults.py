"""Faults of the machine around a run: a full disk, a store that is gone or locked, no network.

Each gives one clear message and a non-zero exit where right, and loses nothing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from spam_lab.record.state import State
from spam_lab.record.store import run_directories
from tests.processes import run_launch


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MiB: a tiny run's checkpoints do not fit."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_said_and_costs_nothing(
    small_disk: Path, tiny: list[str], cache: Path
) -> None:
    """The run fails by name; with room again, the same command finishes it."""
    here = [*tiny[:-2], f"paths.runs={small_disk}", f"paths.cache={cache}"]
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.write(b"x" * 1_800_000)
    code, output = run_launch(here)
    assert code == 1
    assert "No space left on device" in output
    assert "Traceback" not in output
    filler.unlink()
    subprocess.run(
        ["mount", "-o", "remount,size=64m", str(small_disk)], check=True, capture_output=True
    )
    code, output = run_launch(here)
    assert code == 0, output
    (directory,) = run_directories(small_disk)
    assert directory.status().state is State.DONE


def test_a_record_that_is_gone_never_harms_training(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training ends well, one line says what is wrong, and a later sync has everything."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    code, output = run_launch(tiny)
    assert code == 0, output
    assert "Run directories are untouched" in output and "sync again" in output
    assert "Traceback" not in output
    (directory,) = run_directories(tmp_path / "runs")
    assert directory.status().state is State.DONE
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    code, output = run_launch(tiny)
    assert code == 0
    assert "1 new" in output


def test_c4_without_a_network_says_what_to_do(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing answers at the hub's address, as on a cluster node without internet."""
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    code, output = run_launch([*tiny, "data=c4"], timeout=120)
    assert code == 1
    assert "allenai/c4" in output and "data.files" in output and "data=embedded" in output
    assert "Traceback" not in output


def test_a_damaged_status_is_named(tiny: list[str], trained: Path) -> None:
    (directory,) = run_directories(trained)
    (directory.path / "status.json").write_text("{")
    code, output = run_launch(tiny)
    assert code == 1
    assert "status.json is not readable" in output and "Traceback" not in output


def test_runs_that_cannot_be_written_are_refused(tiny: list[str], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    code, output = run_launch([*tiny, f"paths.runs={blocked}/runs"])
    assert code == 1
    assert str(blocked) in output and "Traceback" not in output


def test_the_environment_reaches_no_file(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets live in the environment; no file of a run and no record holds one."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret-value")
    assert run_launch(tiny)[0] == 0
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files)
    assert [path for path in files if b"s3cret-value" in path.read_bytes()] == []
