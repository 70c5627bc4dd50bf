"""Servers that a verb starts for as long as a user looks: a free port, a process group that ends
with the block whatever happens, the wait for the first answer, and the last words of one that died.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

from spam_lab.commands import CommandError
from spam_lab.record.mlflow_store import masked

FIRST_PORT, _PORTS_TRIED = 5000, 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_START_SECONDS, _STOP_SECONDS = 120.0, 10.0


def free_port(host: str, asked: int | None) -> int:
    """The port asked for, or the first free one.

    Raises:
        CommandError: it is taken, or there is none.
    """
    if asked is not None:
        if not _is_free(host, asked):
            raise CommandError(f"port {asked} of {host} cannot be used: give another --port")
        return asked
    for port in range(FIRST_PORT, FIRST_PORT + _PORTS_TRIED):
        if _is_free(host, port):
            return port
    last = FIRST_PORT + _PORTS_TRIED - 1
    raise CommandError(f"{host} has no free port from {FIRST_PORT} to {last}: give --port")


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


def address_of(host: str, port: int) -> str:
    """The address under which this machine reaches a server of its own."""
    reached = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    return f"http://{reached}:{port}"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make being ended or hung up on the same as Ctrl-C, so that the server is always stopped."""
    old = [signal.signal(number, signal.default_int_handler) for number in _ENDING]
    try:
        yield
    finally:
        for number, handler in zip(_ENDING, old, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def served(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process group of its own, all of which ends with the block."""
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


def wait_until_ready(
    server: subprocess.Popen[bytes], name: str, page: str, log: IO[bytes], secret: str
) -> None:
    """Wait until a server answers.

    Args:
        server: its process.
        name: what messages call it.
        page: an address of its that answers when it is ready.
        log: what it writes.
        secret: an address with a password that is not to be shown.

    Raises:
        CommandError: it ended, or does not answer.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise CommandError(f"{name} did not start: {tail(log, secret)}")
        with contextlib.suppress(URLError, OSError), urlopen(page, timeout=5):
            return
        time.sleep(0.3)
    raise CommandError(f"{name} does not answer: {tail(log, secret)}")


def tail(log: IO[bytes], secret: str) -> str:
    """The last line that the server wrote, without a password."""
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return masked(lines[-1].strip(), secret) if lines else "it wrote nothing"
