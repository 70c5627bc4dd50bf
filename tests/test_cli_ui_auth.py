"""`spam-lab ui --auth`: MLflow asks who you are, and sync answers from the environment."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from spam_lab.cli import main
from spam_lab.commands.account import Account
from spam_lab.record.state import State
from tests.conftest import ROOT
from tests.mlflow_server import free_port
from tests.processes import wait_for
from tests.tracking_case import GrowingRun, finished_runs

NAME, PASSWORD = "lab", "a s3cret of 100% our own"
IN_ADDRESS = "a%20s3cret%20of%20100%25%20our%20own"


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account in the environment, of this process and of those that it starts."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", NAME)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


@contextmanager
def ui(runs: Path, port: int, printed: Path, temporary: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`spam-lab ui --auth` once it serves; ended as Ctrl-C ends it."""
    command = [sys.executable, "-m", "spam_lab.cli", "ui", "--auth", "--runs", str(runs)]
    with printed.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def serves() -> bool:
        assert process.poll() is None, printed.read_text()
        return "Ctrl-C stops it" in printed.read_text()

    family: list[psutil.Process] = []
    try:
        wait_for(serves, 120, "spam-lab ui --auth")
        family = psutil.Process(process.pid).children(recursive=True)
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
        assert psutil.wait_procs(family, timeout=10)[1] == []
    finally:
        process.terminate()  # a no-op where it has ended; it takes its server with it
        process.wait(60)
        for member in family:
            if member.is_running():
                member.kill()


def test_the_server_lets_one_account_in_and_keeps_its_password(
    account: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    runs, temporary, printed = tmp_path / "runs", tmp_path / "temporary", tmp_path / "printed"
    temporary.mkdir()
    finished_runs(runs, 2)
    assert main(["sync", "--runs", str(runs)]) == 0
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    sync = ["sync", "--runs", str(runs)]
    with ui(runs, port, printed, temporary):
        assert f"sign in as {NAME}" in printed.read_text()
        with pytest.raises(HTTPError, match="401"):
            urlopen(Request(f"{address}/api/2.0/mlflow/experiments/get?experiment_id=1"))
        (folder,) = temporary.glob("spam_lab_auth_*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "basic_auth.ini").stat().st_mode) == 0o600

        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        capfd.readouterr()
        assert main(sync) == 0
        assert "2 unchanged" in capfd.readouterr().out

        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not-the-s3cret")
        for arguments in (sync, [*sync, "--watch"]):
            assert main(arguments) == 1
            error = capfd.readouterr().err
            assert error.count("\n") == 1 and f"the server at {address} refuses you" in error
            assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in error
            assert "what they say now is no account there" in error
            assert "not-the-s3cret" not in error
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
        assert main(sync) == 1
        assert "they are not both set" in capfd.readouterr().err

        # An account in the address works too, and is shown nowhere.
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{NAME}:{IN_ADDRESS}@127.0.0.1:{port}")
        GrowingRun(runs, 2).start().train(20).end(State.DONE)
        assert main(sync) == 0
        output = "".join(capfd.readouterr())
        assert "1 new" in output and f"record: http://{NAME}:***@127.0.0.1:{port}" in output
        assert main([*sync, "--watch"]) == 0
        output += "".join(capfd.readouterr())
        assert PASSWORD not in output and IN_ADDRESS not in output

    assert list(temporary.glob("spam_lab_auth_*")) == []
    assert main(sync) == 1
    output = "".join(capfd.readouterr())
    assert "start that server" in output and f"{NAME}:***@" in output
    assert PASSWORD not in output and IN_ADDRESS not in output
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files)
    for secret in (PASSWORD, IN_ADDRESS, "not-the-s3cret"):
        assert [path for path in files if secret.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("name", "password", "said"),
    [
        (None, PASSWORD, "--auth needs MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("lab", None, "--auth needs MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("lab", "eleven char", "MLFLOW_TRACKING_PASSWORD is too short"),
        ("la:b", PASSWORD, "must not contain a colon"),
    ],
)
def test_without_a_usable_account_nothing_is_started(
    name: str | None,
    password: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mlflow.db").touch()
    for variable, value in (("USERNAME", name), ("PASSWORD", password)):
        if value is None:
            monkeypatch.delenv(f"MLFLOW_TRACKING_{variable}", raising=False)
        else:
            monkeypatch.setenv(f"MLFLOW_TRACKING_{variable}", value)
    assert main(["ui", "--auth", "--runs", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert said in output.err and output.err.count("\n") == 1 and output.out == ""
    assert password is None or password not in output.err


def test_mlflow_wants_as_long_a_password_as_we_do() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_password

    _validate_password("x" * 12)
    with pytest.raises(MlflowException):
        _validate_password("x" * 11)


def test_an_account_does_not_show_its_password(account: None) -> None:
    mine = Account.from_environment()
    assert PASSWORD not in repr(mine)
    with mine.environment() as one, mine.environment() as other:
        key = "MLFLOW_FLASK_SERVER_SECRET_KEY"
        assert len(one[key]) >= 32 and one[key] != other[key]
        assert PASSWORD not in Path(one["MLFLOW_AUTH_CONFIG_PATH"]).read_text()
        assert str(Path(one["MLFLOW_AUTH_CONFIG_PATH"])).startswith(tempfile.gettempdir())
