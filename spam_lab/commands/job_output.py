"""What the SLURM jobs of a run printed, and what a run's own log says of its end.

It knows where submitit keeps a job's output and how the worker's log looks; it only reads.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from spam_lab.orchestrate.slurm import ledger
from spam_lab.record.store import RunDirectory

_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ [A-Z]+ ")
_TRACEBACK = "Traceback (most recent call last):"
_TAIL_BYTES = 256 * 1024


def jobs_of_run(directory: RunDirectory) -> list[str]:
    """Every job that was given a run or trained it, oldest first, in the order of the ledger."""
    root = directory.path.parent
    given = ledger.jobs_of(root, only_open=False).get(directory.run_id, [])
    told = [str(line.get("job") or "") for line in directory.history()]
    return list(dict.fromkeys([*given, *(job for job in told if job)]))


def output_of(root: Path, job_id: str) -> Path | None:
    """The file that holds what a job printed; None where there is none (yet)."""
    found = sorted((root / ledger.FOLDER).glob(f"*/jobs/{job_id}_*_log.out"))
    # The first of several processes is the one that tells how the job went.
    return next((p for p in found if p.name == f"{job_id}_0_log.out"), found[0] if found else None)


def last_output(directory: RunDirectory, first: str = "") -> tuple[str, Path] | None:
    """The last job of a run that printed something, and where; job `first` before others."""
    jobs = jobs_of_run(directory)
    for job_id in dict.fromkeys([*([first] if first else []), *reversed(jobs)]):
        path = output_of(directory.path.parent, job_id)
        if path is not None:
            return job_id, path
    return None


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, read from its end; none where it is not there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - max(_TAIL_BYTES, 400 * lines)))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:]


def last_traceback(path: Path) -> tuple[list[str], float | None]:
    """The last traceback of a worker's log, and when it was written (Unix time, where known)."""
    lines = tail(path, 2000)
    starts = [i for i, line in enumerate(lines) if _TRACEBACK in line]
    if not starts:
        return [], None
    start = starts[-1]
    # One error raised while another was handled is told in several tracebacks, under one stamp.
    while start > 0 and not _STAMP.match(lines[start]):
        start -= 1
    stamped = _STAMP.match(lines[start])
    found = [lines[start][stamped.end() :] if stamped else lines[start]]
    for line in lines[start + 1 :]:
        if _STAMP.match(line):
            break
        found.append(line)
    while found and not found[-1].strip():
        found.pop()
    if stamped is None:
        return found, None
    return found, time.mktime(time.strptime(stamped[1], "%Y-%m-%d %H:%M:%S"))
