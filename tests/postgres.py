"""A real PostgreSQL for tests: installed from Debian where that is allowed, started in a temporary
folder as an unprivileged user, reached through a socket in that folder, gone afterwards.

`python -m tests.postgres` installs it and says whether it is there.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

USER, PASSWORD = "lab", "pg-s3cret%2Fword"  # as it stands in an address
_INSTALL_SECONDS, _INSTALL_TRIES = 300, 3
_START_SECONDS, _STOP_SECONDS = 60.0, 20.0


@dataclass(frozen=True)
class Postgres:
    """A server that is running; `uri` is its first database, password included."""

    uri: str

    def database(self, name: str) -> str:
        """The address of a further, empty database."""
        self._command(f"CREATE DATABASE {name}")
        return self.uri.replace("/lab?", f"/{name}?")

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """The rows of one SQL statement on the first database."""
        import psycopg

        with psycopg.connect(self.uri.replace("+psycopg", "")) as connection:
            return list(connection.execute(statement.encode()).fetchall())

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Let nobody into the first database while the block lasts, and put out who is in it."""
        self._command("ALTER DATABASE lab ALLOW_CONNECTIONS false")
        self._command("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname='lab'")
        try:
            yield
        finally:
            self._command("ALTER DATABASE lab ALLOW_CONNECTIONS true")

    def _command(self, statement: str) -> None:
        """Do something that is done from outside the first database."""
        import psycopg

        outside = self.uri.replace("+psycopg", "").replace("/lab?", "/postgres?")
        with psycopg.connect(outside, autocommit=True) as connection:
            connection.execute(statement.encode())


def ensure_installed() -> str | None:
    """Install PostgreSQL where it is missing and this user may; the reason why it is not there.

    A release must not be made on skipped tests: with CI or SPAM_LAB_REQUIRE_SLURM=1 in the
    environment, a missing PostgreSQL fails the test.
    """
    reason = None if _programs() else _install()
    if reason and (os.environ.get("CI") or os.environ.get("SPAM_LAB_REQUIRE_SLURM") == "1"):
        pytest.fail(reason)
    return reason


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs; Debian keeps it out of PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "postgres").exists() and (f / "initdb").exists()), None)


def _install() -> str | None:
    """Install Debian's package; the reason why not."""
    apt = shutil.which("apt-get")
    if apt is None:
        return "PostgreSQL is not installed, and this is no Debian"
    if os.geteuid() == 0:
        prefix: list[str] = []
    elif subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        prefix = ["sudo", "-n"]
    else:
        return "PostgreSQL is not installed: apt-get install postgresql"
    # RUNLEVEL=1 keeps Debian from starting a server of its own.
    options = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", apt, "-y", "-q"]
    options += ["-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]
    output = ""
    for _ in range(_INSTALL_TRIES):
        for command in (["update"], ["install", "--no-install-recommends", "postgresql"]):
            try:
                done = subprocess.run(
                    [*prefix, *options, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=_INSTALL_SECONDS,
                )
                output = done.stdout
            except subprocess.TimeoutExpired:
                output = f"apt-get {command[0]} took more than {_INSTALL_SECONDS} s"
        if _programs():
            return None
    return f"PostgreSQL cannot be installed: {' '.join(output.split())[-300:]}"


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A fresh server with one database and one account that has a password.

    It listens on a socket in its own folder: no port can be taken, no other user gets in.
    """
    programs = _programs()
    assert programs, "call ensure_installed first"
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None  # it refuses to run as root
    owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    with tempfile.TemporaryDirectory(prefix="spam_pg_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        secret = folder / "password"
        secret.write_text(PASSWORD.replace("%2F", "/"))
        if account:
            for path in (folder, secret):
                os.chown(path, account.pw_uid, account.pw_gid)
        data, log = folder / "data", folder / "log"
        make = [programs / "initdb", "--pgdata", data, "--username", USER, "--pwfile", secret]
        make += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        made = subprocess.run(
            [str(word) for word in make],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **owner,  # type: ignore[arg-type]
        )
        assert made.returncode == 0, made.stdout
        serve = [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="]
        serve += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        with log.open("wb") as output:
            server = subprocess.Popen(
                [str(word) for word in serve],
                cwd=folder,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in pytest is not for it
                **owner,  # type: ignore[call-overload]
            )
        try:
            postgres = Postgres(f"postgresql+psycopg://{USER}:{PASSWORD}@/lab?host={folder}")
            _make_database(server, postgres, log)
            yield postgres
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nobody needs what it holds
            try:
                server.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def _make_database(server: subprocess.Popen[bytes], postgres: Postgres, log: Path) -> None:
    """Make the first database, as soon as the server answers."""
    import psycopg

    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert server.poll() is None, f"PostgreSQL did not start: {log.read_text()}"
        try:
            postgres.database("lab")
            return
        except psycopg.errors.DuplicateDatabase:  # an answer that was lost
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, f"PostgreSQL does not answer: {log.read_text()}"
            time.sleep(0.05)


if __name__ == "__main__":
    missing = ensure_installed()
    print(missing or f"PostgreSQL is in {_programs()}")
    sys.exit(1 if missing else 0)
