"""`spam-lab ui`: MLflow's own pages over the record, until Ctrl-C.

It promises a server that only this machine can reach unless asked otherwise, addresses that open
the tables of training runs, and that no process is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from spam_lab.commands import CommandError, add_runs_argument, require_runs
from spam_lab.commands.account import Account
from spam_lab.record.mlflow_store import (
    artifact_root,
    is_server,
    masked,
    shown,
    sqlite_path,
    tracking_uri,
)

SUMMARY = "look at the record in MLflow's pages"
DETAILS = """
Starts MLflow's own server over the record that spam-lab sync has made and prints the address of
each experiment's runs. Stop it with Ctrl-C. It does not sync: run spam-lab sync beside it and
reload the page.

The server has no password. It listens on this machine only; to look at it from another one, tunnel:
  ssh -N -L 5000:127.0.0.1:5000 THIS_MACHINE

With --auth it asks for one account, whose name and password you set in the environment as
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (12 characters or more). With the same two
variables and MLFLOW_TRACKING_URI=http://THIS_MACHINE:5000, spam-lab sync writes through it. Names
that others reach it by go into MLFLOW_SERVER_ALLOWED_HOSTS, as MLflow answers to no other:
  MLFLOW_SERVER_ALLOWED_HOSTS='localhost:*,127.0.0.1:*,node7:*' spam-lab ui --auth --host 0.0.0.0
For an account for each member, run MLflow's own server: mlflow server --app-name basic-auth
"""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_FIRST_PORT, _PORTS_TRIED = 5000, 20
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_START_SECONDS, _STOP_SECONDS = 120.0, 10.0


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_runs_argument(parser)
    parser.add_argument(
        "--port", type=int, metavar="N", help=f"port (default: the first free from {_FIRST_PORT})"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--auth",
        action="store_true",
        help="ask for the account in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    )


def run(arguments: Namespace) -> int:
    """Serve the record until interrupted."""
    uri = tracking_uri(arguments.runs)
    if is_server(uri):
        print(f"the record is on a server already: open {shown(uri)}/#/experiments")
        return 0
    require_runs(arguments.runs)
    path = sqlite_path(uri)
    if path and not path.exists():
        raise CommandError(f"nothing is recorded at {shown(uri)} yet: run spam-lab sync first")
    account = Account.from_environment() if arguments.auth else None
    host: str = arguments.host
    if host not in _LOOPBACK:
        danger = (
            "the password and the record travel unencrypted. A proxy with TLS before 127.0.0.1"
            if account
            else f"there is no password; whoever reaches {host} reads and changes the record. "
            "An SSH tunnel to 127.0.0.1"
        )
        print(f"warning: {danger} is safer.", file=sys.stderr)
    port = _port(host, arguments.port)
    print(f"starting MLflow on {host}:{port} (10 to 60 s) ...", flush=True)
    reached = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    address = f"http://{reached}:{port}"
    with _interruptible(), tempfile.TemporaryFile() as log:
        try:
            with (
                _account_environment(account) as environment,
                _server(uri, arguments.runs, host, port, environment, log) as server,
            ):
                _wait_until_ready(server, address, uri, log)
                for name, url in _experiment_pages(address, account):
                    print(f"{name}: {url}")
                if account:
                    print(f"sign in as {account.name}")
                print("Ctrl-C stops it", flush=True)
                server.wait()
                raise CommandError(f"MLflow's server ended by itself: {_tail(log, uri)}")
        except KeyboardInterrupt:
            print("stopped")
    return 0


def _port(host: str, asked: int | None) -> int:
    """The port asked for, or the first free one."""
    if asked is not None:
        if not _is_free(host, asked):
            raise CommandError(f"port {asked} of {host} cannot be used: give another --port")
        return asked
    for port in range(_FIRST_PORT, _FIRST_PORT + _PORTS_TRIED):
        if _is_free(host, port):
            return port
    last = _FIRST_PORT + _PORTS_TRIED - 1
    raise CommandError(f"{host} has no free port from {_FIRST_PORT} to {last}: give --port")


def _is_free(host: str, port: int) -> bool:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except socket.gaierror as error:
        raise CommandError(f"{host} is not an address of this machine: {error}") from None
    except (OSError, OverflowError):
        return False
    return True


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Make being ended or hung up on the same as Ctrl-C, so that the server is always stopped."""
    old = [signal.signal(number, signal.default_int_handler) for number in _ENDING]
    try:
        yield
    finally:
        for number, handler in zip(_ENDING, old, strict=True):
            signal.signal(number, handler)


def _account_environment(
    account: Account | None,
) -> contextlib.AbstractContextManager[dict[str, str]]:
    return account.environment() if account else contextlib.nullcontext({})


@contextlib.contextmanager
def _server(
    uri: str, runs: Path, host: str, port: int, account: Mapping[str, str], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server in a process group of its own, all of which ends with the block. `account` is
    what its environment says about who may use it; empty where anybody may."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    command += ["--workers", "1", "--no-serve-artifacts"]
    command += ["--default-artifact-root", artifact_root(runs)]
    command += ["--app-name", "basic-auth"] if account else []
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # arguments are public, and it may hold a password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **account,
    }
    # An interruption while the process is being made would lose its handle: it is kept for later.
    kept: list[int] = []
    before = [signal.signal(number, lambda got, frame: kept.append(got)) for number in _ENDING]
    server = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        for number, handler in zip(_ENDING, before, strict=True):
            signal.signal(number, handler)
        if kept:
            raise KeyboardInterrupt
        yield server
    finally:
        _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave it half stopped
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_SECONDS)
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _wait_until_ready(
    server: subprocess.Popen[bytes], address: str, uri: str, log: IO[bytes]
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise CommandError(f"MLflow's server did not start: {_tail(log, uri)}")
        with contextlib.suppress(URLError, OSError), urlopen(f"{address}/health", timeout=5):
            return
        time.sleep(0.3)
    raise CommandError(f"MLflow's server does not answer: {_tail(log, uri)}")


def _experiment_pages(address: str, account: Account | None) -> list[tuple[str, str]]:
    """Each experiment of ours and the page of its runs; the server's own start page is about
    traces of language-model applications."""
    request = Request(
        f"{address}/api/2.0/mlflow/experiments/search",
        data=json.dumps({"max_results": 1000}).encode(),
        headers={"Content-Type": "application/json", **(account.header() if account else {})},
    )
    try:
        with urlopen(request, timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer).get("experiments", [])
    except HTTPError as error:
        said = error.read().decode(errors="replace").strip()[:200]
        raise CommandError(
            f"MLflow's server refuses this machine ({error.code}: {said}): where "
            "MLFLOW_SERVER_ALLOWED_HOSTS is set, 127.0.0.1:* must be among them"
        ) from None
    pages = [
        (entry["name"], f"{address}/#/experiments/{entry['experiment_id']}/runs")
        for entry in found
        if entry["name"].startswith("spam_lab ")
    ]
    return sorted(pages) or [("no runs are recorded yet", address)]


def _tail(log: IO[bytes], uri: str) -> str:
    """The last line that the server wrote, without a password."""
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return masked(lines[-1].strip(), uri) if lines else "it wrote nothing"
