"""The lease on a run: at most one worker trains it at a time.

`lease.json` names the holder; its modification time is the heartbeat, renewed by a thread. A lease
is dead when its process has ended (seen at once on the same machine). From another machine it is
dead when the holder's SLURM job has been requeued into ours or has ended, by SLURM's own account,
or, where SLURM cannot be asked, when its heartbeat is older than `STALE_SECONDS` by the file
system's own clock. Taking and releasing happen under a lock file, so two workers that see a dead
lease cannot both take it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from spam_lab.files import read_json, write_json
from spam_lab.orchestrate.slurm.place import Place
from spam_lab.orchestrate.slurm.queue import GONE, ON_NODES, raw_job_state

HEARTBEAT_SECONDS = 10.0
MISSED_SECONDS = 35.0
"""From here on heartbeats have been missed: a holder whose job SLURM does not know is dead."""
STALE_SECONDS = 120.0
CLOCK_SECONDS = 60.0
"""How far the clock may be set while a worker runs: times of start and boot move with it."""


class LeaseLost(RuntimeError):
    """Another worker holds the run now; whoever sees this must write nothing more."""


class Lease:
    """A lease that this process may hold. Use `acquire`, then as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = secrets.token_hex(8)
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._renew, daemon=True)

    def acquire(self) -> bool:
        """Take the lease where it is free or dead. False where a live worker holds it."""
        with _locked(self._path):
            if is_live(self._path):
                return False
            write_json(self._path, {**_here(), "token": self._token})
        self._beat.start()
        return True

    def require(self) -> None:
        """Raise LeaseLost unless this lease is still the one on disk."""
        if _holder(self._path).get("token") != self._token:
            raise LeaseLost(f"another worker has taken over {self._path.parent.name}")

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._beat.join()
        with _locked(self._path), contextlib.suppress(LeaseLost):
            self.require()
            self._path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            # A heartbeat that fails (a full or absent file system) is tried again at the next beat.
            with contextlib.suppress(OSError):
                os.utime(self._path)


def is_live(path: Path) -> bool:
    """Whether a worker that is alive holds the lease at `path`."""
    holder = _holder(path)
    if not holder:
        return False
    known = lives_by_own_account(path)
    if known is not None:
        return known
    age = heartbeat_age(path)
    if age is None:
        return False
    job = holder.get("raw_job")
    state = raw_job_state(str(job)) if job else None
    if state is None:
        return age < STALE_SECONDS
    # A job may be hidden from us, as other users' jobs are on some sites.
    return age < MISSED_SECONDS if state == GONE else state in ON_NODES


def lives_by_own_account(path: Path) -> bool | None:
    """Whether the holder is alive, without asking anybody: a process of this machine, or of an
    earlier attempt of this very job, which SLURM ended before it began this one. None where it is
    neither."""
    holder = _holder(path)
    if holder and _is_local(holder):
        return _is_running(holder)
    here, job, restart = Place.here(), holder.get("raw_job"), holder.get("restart")
    if job and job == here.raw_job and isinstance(restart, int) and restart < here.restart:
        return False
    return None


def last_beat(path: Path) -> float | None:
    """When the holder was last heard of, Unix time; None where nobody holds the lease."""
    try:
        return path.stat().st_mtime if _holder(path) else None
    except FileNotFoundError:
        return None


def heartbeat_age(path: Path) -> float | None:
    """Seconds since the holder's last heartbeat; None where there is no lease."""
    try:
        return _file_system_now(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return None


def _holder(path: Path) -> dict[str, Any]:
    """What the lease says; empty where there is none or it was damaged."""
    try:
        content = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _here() -> dict[str, Any]:
    process = psutil.Process()
    place = Place.here()
    return {
        "host": place.host,
        "raw_job": place.raw_job,
        "restart": place.restart,
        "boot": psutil.boot_time(),  # tells restarts of one host name apart
        "pid": process.pid,
        "started": process.create_time(),
    }


def _is_local(holder: dict[str, Any]) -> bool:
    same = holder.get("host") == Place.here().host
    return same and _near(holder.get("boot"), psutil.boot_time())


def _near(one: Any, other: float) -> bool:
    return isinstance(one, int | float) and abs(one - other) < CLOCK_SECONDS


def _is_running(holder: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(int(holder["pid"]))
        same = _near(holder.get("started"), process.create_time())
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False


def _file_system_now(folder: Path) -> float:
    """The time by the clock of the file system, which may be another machine's."""
    probe = folder / f".clock.{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
