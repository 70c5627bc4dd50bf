"""What the doctor says of the folder of runs: whether it can be written, how much is free, on which
file system it is, and whether renaming and locking work there as run directories need it.

Everything is tried in the folder, or in the nearest one above it that is there, and removed again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import psutil

from spam_lab.commands.doctor_checks import Finding
from spam_lab.orchestrate.slurm import queue

_LITTLE_GB = 5.0
_SHARED = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "pvfs", "orangefs", "wekafs", "cifs")
_OTHER = "give --runs DIR, or SPAM_LAB_RUNS=DIR"


def look(runs: Path) -> list[Finding]:
    """The findings about a folder of runs."""
    place = nearest(runs)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor_") as name:
            with (Path(name) / "file").open("wb") as file:
                file.write(b"\0" * 4096)
            return [_space(runs, place), _files(Path(name)), _kind(place)]
    except OSError as error:
        why = error.strerror or str(error)
        return [Finding("runs folder", f"{runs}: {why}", _OTHER)]


def nearest(runs: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    place = runs.absolute()
    while not place.exists():
        place = place.parent
    return place


def file_system(path: Path) -> str:
    """The type of the file system that holds a path; empty where it cannot be known."""
    best, kind = "", ""
    for part in psutil.disk_partitions(all=True):
        mount = part.mountpoint.rstrip("/") + "/"
        if f"{path.resolve()}/".startswith(mount) and len(mount) >= len(best):
            best, kind = mount, part.fstype
    return kind


def _space(runs: Path, place: Path) -> Finding:
    free = shutil.disk_usage(place).free / 1e9
    state = f"{runs} can be written, {free:.0f} GB free"
    little = "make room: a checkpoint at paper scale takes GBs" if free < _LITTLE_GB else ""
    return Finding("runs folder", state, little, needed=False)


def _files(scratch: Path) -> Finding:
    """Files are replaced by renaming, and leases are taken under a lock."""
    old, new = scratch / "old", scratch / "new"
    old.write_text("old")
    new.write_text("new")
    os.replace(new, old)
    if old.read_text() != "new":
        return Finding("renaming", "does not replace a file", _OTHER)
    try:
        with old.open("a") as one, old.open("a") as other:
            fcntl.flock(one, fcntl.LOCK_EX)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Finding("file locks", "renaming and locking work in the runs folder")
    except OSError as error:
        told = f"cannot be taken: {error.strerror}"
        return Finding("file locks", told, f"mount it with locks (flock), or {_OTHER}")
    return Finding("file locks", "lock nobody out", f"mount it with locks (flock), or {_OTHER}")


def _kind(place: Path) -> Finding:
    kind = file_system(place) or "unknown"
    if kind.startswith(_SHARED):
        return Finding("file system", f"{kind}, shared with other nodes")
    alone = not queue.is_here()
    return Finding(
        "file system",
        f"{kind}, of this computer" if kind != "unknown" else kind,
        "" if alone else "jobs need a folder that all nodes see: spam-lab doctor --jobs tries it",
        needed=False,
    )
