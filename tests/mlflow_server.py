"""A real `mlflow server` for tests: over any database, with the artifacts in its own keeping, in a
process group that is killed as a whole and can be started again at the same address."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.processes import wait_for

_START_SECONDS = 120.0


class MlflowServer:
    """The server of the store at `uri`; what it writes goes to `folder`."""

    def __init__(self, uri: str, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        self._environment = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # or it has 15 processes
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> MlflowServer:
        """Start it and wait until it answers."""
        options = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        options += ["--artifacts-destination", str(self._folder / "artifacts")]
        log = self._folder / "server.log"
        with log.open("ab") as output:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options],
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

        def answers() -> bool:
            assert process.poll() is None, f"the server did not start: {log.read_text()[-2000:]}"
            try:
                return bool(urlopen(f"{self.address}/health", timeout=5).read())
            except (URLError, OSError):
                return False

        wait_for(answers, _START_SECONDS, "mlflow server")
        return self

    def kill(self) -> None:
        """End all of it at once, as a machine that goes down does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def free_port() -> int:
    """A port that nobody has, and that the system does not give to outgoing connections either: a
    client that keeps trying an address in that range can end up talking to itself."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
