"""The processes of a throw-away SLURM cluster: started, found again, and swept without exception.

A daemon runs in a session of its own, with a clean environment and none of the starter's
descriptors, and carries a mark (the cluster's folder) in its environment. Whatever carries the
mark, and whatever SLURM runs for that folder's slurm.conf, belongs to the cluster: a pid file is
never believed. The folder's owner holds a lock in it, so that the folders of dead owners are known.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

MARK = "SPAM_LAB_TEST_CLUSTER"
NODE = "SPAM_LAB_TEST_NODE"
PREFIX = "spam-slurm-"
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where the daemons are; not on a user's PATH
_ORDER = ("slurmctld", "slurmscriptd", "slurmd", "slurmstepd")


class ClusterError(RuntimeError):
    """The cluster did not do what it was asked; the message says what its logs say."""


def program(name: str) -> str | None:
    """Where a program or daemon is installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")


def until(condition: Callable[[], object], seconds: float, what: Callable[[], str]) -> None:
    """Wait for a condition; after `seconds`, raise with what was seen."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise ClusterError(f"after {seconds:.0f} s: {what()}")
        time.sleep(0.05)


def spawn(
    folder: Path, name: str, argv: Sequence[str], extra: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a daemon of the cluster in `folder`; its output goes to `log/NAME.out`."""
    path = program(argv[0])
    if path is None:
        raise ClusterError(f"{argv[0]} is not installed")
    environment = {
        "PATH": f"{os.environ.get('PATH', os.defpath)}:{SBIN}",
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "SLURM_CONF": str(folder / "slurm.conf"),
        MARK: str(folder),
        **(extra or {}),
    }
    with (folder / "log" / f"{name}.out").open("ab") as output:
        return subprocess.Popen(
            [path, *argv[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def members(folder: Path, node: str | None = None, clients: bool = False) -> list[psutil.Process]:
    """The living processes of a cluster, or of one of its nodes; daemons first.

    With `clients`, also what merely talks to the cluster, such as a waiting srun.
    """
    table = [p for p in psutil.process_iter(["ppid", "name", "status"]) if _living(p)]
    found = {p.pid for p in table if _belongs(p, folder, node, clients)}
    grown = True
    while grown:  # descendants too: a job may clean its environment
        children = {p.pid for p in table if p.info["ppid"] in found} - found
        found |= children
        grown = bool(children)
    spared = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    chosen = [p for p in table if p.pid in found - spared]
    return sorted(chosen, key=_rank)


def environ_of(process: psutil.Process) -> dict[str, str]:
    """A process's environment; empty when it is gone or another user's."""
    try:
        block = Path(f"/proc/{process.pid}/environ").read_bytes()
    except OSError:
        return {}
    parts = (part.partition("=") for part in block.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in parts}


def destroy(find: Callable[[], Collection[psutil.Process]], seconds: float = 30) -> None:
    """Kill all that `find` finds, as if at one instant, and wait until it finds nothing.

    All are frozen before the first is killed: a step that outlives its job's processes for a moment
    would report their end to the controller.
    """
    end = time.monotonic() + seconds
    while found := find():
        if time.monotonic() > end:
            left = ", ".join(f"{p.pid} {p.info['name']}" for p in found)
            raise ClusterError(f"not to be killed in {seconds:.0f} s: {left}")
        frozen: set[psutil.Process] = set()
        while new := [p for p in find() if p not in frozen]:
            _signal(new, signal.SIGSTOP)
            frozen.update(new)
        _signal(sorted(frozen, key=_rank), signal.SIGKILL)
        time.sleep(0.02)


def make_folder() -> tuple[Path, IO[str]]:
    """A folder for a cluster and the lock that says that its owner lives.

    The path is short: SLURM puts Unix sockets below it, whose paths have 108 bytes. The folder gets
    the name that `sweep` looks for when the lock is already held.
    """
    new = Path(tempfile.mkdtemp(prefix=f"new-{PREFIX}", dir="/tmp"))
    new.chmod(0o755)
    lock = (new / "owner").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    folder = new.with_name(new.name.removeprefix("new-"))
    new.rename(folder)
    return folder, lock


def sweep() -> list[Path]:
    """Remove the clusters whose owners are dead, processes and folders; which these were."""
    swept = []
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        try:
            lock = (folder / "owner").open("r+")
        except OSError:  # another user's, or removed this moment
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            destroy(lambda folder=folder: members(folder, clients=True))  # type: ignore[misc]
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
    return swept


def _belongs(process: psutil.Process, folder: Path, node: str | None, clients: bool) -> bool:
    if process.info["name"] == "slurmstepd":  # its title overwrites its environment
        logs = _logs_of(process, folder)
        return f"slurmd.{node}.log" in logs if node else bool(logs)
    environ = environ_of(process)
    configured = environ.get("SLURM_CONF") == str(folder / "slurm.conf")
    if environ.get(MARK) == str(folder):
        return node in (None, environ.get(NODE))
    if configured and "SLURMD_NODENAME" in environ:  # what a job runs
        return node in (None, environ["SLURMD_NODENAME"])
    return clients and configured and node is None


def _logs_of(process: psutil.Process, folder: Path) -> set[str]:
    """The names of the cluster's logs that a process writes."""
    found = set()
    with suppress(OSError):  # gone, or another user's
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(OSError):
                target = Path(os.readlink(link))
                if target.parent == folder / "log":
                    found.add(target.name)
    return {name for name in found if name.startswith("slurmd.")}


def _living(process: psutil.Process) -> bool:
    # pid 1 of a container may reap late: a zombie is dead
    return process.info["status"] not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def _rank(process: psutil.Process) -> int:
    name = process.info["name"]
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _signal(processes: Collection[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
