"""`spam-lab sync` and `spam-lab ui` as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest

from spam_lab.cli import main
from spam_lab.record.mlflow_store import tracking_uri
from spam_lab.record.running_ui import running_ui
from spam_lab.record.state import State
from spam_lab.record.tracking import sync
from tests.tracking_case import GrowingRun, content_of, finished_runs

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few runs and their record."""
    root = tmp_path_factory.mktemp("runs")
    finished_runs(root, 3)
    assert main(["sync", "--runs", str(root)]) == 0
    return root


@pytest.fixture
def ui(runs: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`spam-lab ui` on the first free port, ended whatever happens."""
    command = [sys.executable, "-m", "spam_lab.cli", "ui", "--runs", str(runs)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    family = descendants(process)
    try:
        yield process
    finally:
        family += descendants(process)
        process.kill()
        process.wait()
        for member in family:
            if member.is_running():
                member.kill()


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def assert_gone(family: list[psutil.Process]) -> None:
    assert psutil.wait_procs(family, timeout=5)[1] == []


def test_ui_serves_the_record_and_leaves_no_process(
    ui: subprocess.Popen[str], runs: Path, tmp_path: Path
) -> None:
    assert ui.stdout is not None
    assert "starting MLflow on 127.0.0.1:" in ui.stdout.readline()
    name, url = ui.stdout.readline().strip().split(": ", 1)
    assert name == "spam_lab nano"
    address = url.removesuffix("/#/experiments/1/runs")
    assert address != url and address.startswith("http://127.0.0.1:")
    family = descendants(ui)
    assert family

    assert running_ui(runs, tracking_uri(runs)) == address
    assert running_ui(runs, "sqlite:////elsewhere.db") == ""
    assert urlopen(f"{address}/health", timeout=20).read() == b"OK"
    query = {"experiment_ids": ["1"], "filter": "tags.`spam_lab.sweep.figure9` = 'true'"}
    request = Request(
        f"{address}/api/2.0/mlflow/runs/search",
        data=json.dumps(query).encode(),
        headers={"Content-Type": "application/json"},
    )
    found = json.load(urlopen(request, timeout=20))["runs"]
    assert len(found) == 2
    run_id = found[0]["info"]["run_id"]
    artifact = urlopen(
        f"{address}/get-artifact?run_uuid={run_id}&path=config.json", timeout=20
    ).read()
    assert json.loads(artifact)["schema_version"] == 1

    # The same record through the server: nothing to do, and what is new is written alike.
    assert sync(runs, address).unchanged == 3
    GrowingRun(runs, 3).start().train(40, odd=float("nan")).checkpoint().end(State.DIVERGED)
    GrowingRun(runs, 4).start().train(25).checkpoint().end(State.PREEMPTED)
    assert sync(runs, address).new == 2
    (tmp_path / "other").mkdir()
    sync(runs, f"sqlite:///{tmp_path / 'other' / 'once.db'}")
    assert content_of(address) == content_of(f"sqlite:///{tmp_path / 'other' / 'once.db'}")

    ui.send_signal(signal.SIGINT)
    time.sleep(0.05)
    ui.send_signal(signal.SIGINT)  # an impatient user
    assert ui.wait(20) == 0
    assert ui.stdout.read().splitlines()[-1] == "stopped"
    assert_gone(family)
    assert not (runs / ".ui.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["other"], (
        "something was written in the working directory"
    )


def test_ui_ended_while_it_starts_leaves_no_process(ui: subprocess.Popen[str]) -> None:
    assert ui.stdout is not None
    ui.stdout.readline()
    deadline = time.monotonic() + 20
    while not (family := descendants(ui)) and time.monotonic() < deadline:
        time.sleep(0.05)
    ui.send_signal(signal.SIGTERM)
    assert ui.wait(20) == 0
    assert_gone(family)


def test_ui_ended_while_it_makes_the_server_leaves_no_process(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The signal comes when the server's process is there and nobody has its handle yet."""
    made: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            made.append(self)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("spam_lab.commands.serving.subprocess.Popen", Interrupted)
    assert main(["ui", "--runs", str(runs)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "stopped"
    assert made[0].poll() is not None


def test_ui_that_cannot_start_says_why(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["ui", "--runs", str(runs), "--port", str(port)]) == 1
        error = capsys.readouterr().err
        assert f"port {port} of 127.0.0.1 cannot be used" in error and "warning" not in error
        assert main(["ui", "--runs", str(runs), "--port", str(port), "--host", "0.0.0.0"]) == 1
        assert "warning: there is no password" in capsys.readouterr().err
    assert main(["ui", "--runs", str(runs), "--host", "no.such.host.invalid"]) == 1
    assert "not an address of this machine" in capsys.readouterr().err
    assert main(["ui", "--runs", str(tmp_path)]) == 1
    assert "run spam-lab sync first" in capsys.readouterr().err
    (tmp_path / "mlflow.db").write_bytes(b"not a database at all" * 100)
    assert main(["ui", "--runs", str(tmp_path)]) == 1
    assert "MLflow's server did not start" in capsys.readouterr().err


def test_ui_of_a_server_needs_no_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.lab")
    assert main(["ui"]) == 0
    assert capsys.readouterr().out.strip().endswith("https://me:***@mlflow.lab/#/experiments")


def test_sync_counts_and_says_what_is_next(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPAM_LAB_RUNS", str(runs))
    assert main(["sync"]) == 0
    capsys.readouterr()
    count = len(list(runs.glob("*/config.json")))
    assert main(["sync"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{count} runs in 1 sweeps: 0 new, 0 updated, {count} unchanged",
        f"record: sqlite:///{runs}/mlflow.db",
        "next: spam-lab ui",
    ]


def test_sync_of_nothing_and_of_a_damaged_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", "--runs", str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("spam-lab sync: there are no runs at") and error.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "0bad").mkdir()
    (tmp_path / "0bad" / "config.json").write_text("{")
    assert main(["sync", "--runs", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "left out: " in output.err and "Traceback" not in output.err
    assert "next: python launch.py" in output.out


@pytest.mark.parametrize("verb", ["sync", "ui"])
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "SPAM_LAB_RUNS" in text and "sync" in text
