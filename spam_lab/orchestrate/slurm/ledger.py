"""The ledger of submissions: which job was given which runs, kept in files beside the runs.

    <runs>/.slurm/<submission>/submission.json   what was submitted, and SLURM's job ids
    <runs>/.slurm/<submission>/array_<k>.json    what the jobs of an array are to do (`job`)
    <runs>/.slurm/<submission>/jobs/             submitit's own files, and what jobs printed

An array is written down before it is submitted and its job ids right after, so an interrupted
submission is seen as such. Folders are the user's alone: jobs unpickle what submitit puts there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from spam_lab.files import read_json, write_json
from spam_lab.orchestrate.slurm.packing import share
from spam_lab.orchestrate.slurm.queue import JobInfo, SlurmError

FOLDER = ".slurm"
LOCK_SECONDS = 120.0


@dataclass
class ArrayRecord:
    """One array of a submission. `job_ids` is empty until SLURM has taken it, one a job after."""

    name: str
    run_ids: list[str]
    bounds: list[int]
    jobs: int
    job_ids: list[str] = field(default_factory=list)

    def share(self, index: int) -> tuple[str, ...]:
        """The runs of job `index`."""
        return share(self.run_ids, self.bounds, index, self.jobs)


@dataclass
class Submission:
    """What one command submitted. `is_open` until none of its jobs can do anything any more."""

    folder: Path
    sweep: str
    scale: str
    created_ms: int
    is_open: bool = True
    arrays: list[ArrayRecord] = field(default_factory=list)

    @classmethod
    def new(cls, root: Path, sweep: str, scale: str) -> Submission:
        """A submission with a folder of its own, which only this user can enter."""
        require_unshared(root)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = root / FOLDER / f"{stamp}-{secrets.token_hex(3)}"
        make_private(root / FOLDER)
        make_private(folder)
        return cls(folder, sweep, scale, time.time_ns() // 1_000_000)

    @property
    def name(self) -> str:
        """The folder's name, which job names begin with."""
        return self.folder.name

    def order_path(self, number: int) -> Path:
        """The order of the jobs of array `number`."""
        return self.folder / f"array_{number}.json"

    @property
    def jobs_folder(self) -> Path:
        """submitit's folder."""
        return self.folder / "jobs"

    def write(self) -> None:
        """Keep what is known now."""
        content = asdict(self)
        del content["folder"]
        write_json(self.folder / "submission.json", content)

    @classmethod
    def read(cls, folder: Path) -> Submission:
        """The submission kept in `folder`."""
        content = read_json(folder / "submission.json")
        arrays = [ArrayRecord(**array) for array in content.pop("arrays")]
        return cls(folder=folder, arrays=arrays, **content)


def submissions(root: Path) -> list[Submission]:
    """Every submission under `root`, oldest first."""
    return [Submission.read(p.parent) for p in sorted((root / FOLDER).glob("*/submission.json"))]


def jobs_of(root: Path, *, only_open: bool = True) -> dict[str, list[str]]:
    """The jobs that were given each run, by run_id, oldest first."""
    found: dict[str, list[str]] = {}
    for submission in submissions(root):
        if only_open and not submission.is_open:
            continue
        for array in submission.arrays:
            for index, job_id in enumerate(array.job_ids):
                for run_id in array.share(index):
                    found.setdefault(run_id, []).append(job_id)
    return found


def held(root: Path, jobs: Mapping[str, JobInfo]) -> dict[str, JobInfo]:
    """The runs that a live job was given, with that job; a running one before one that waits."""
    found: dict[str, JobInfo] = {}
    for run_id, job_ids in jobs_of(root).items():
        live = [jobs[job_id] for job_id in job_ids if job_id in jobs and jobs[job_id].is_live]
        if live:
            found[run_id] = max(live, key=lambda job: job.state == "RUNNING")
    return found


def live_jobs(root: Path, jobs: Mapping[str, JobInfo], sweep: str) -> list[str]:
    """The live jobs that were submitted for `sweep`."""
    return [
        job_id
        for submission in submissions(root)
        if submission.is_open and submission.sweep == sweep
        for array in submission.arrays
        for job_id in array.job_ids
        if job_id in jobs and jobs[job_id].is_live
    ]


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """One submitting command at a time.

    Raises:
        SlurmError: another one has been at it for minutes.
    """
    make_private(root / FOLDER)
    try:
        with FileLock(root / FOLDER / "lock", timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise SlurmError(
            f"another command is submitting for {root} (it holds {root / FOLDER / 'lock'}): "
            "wait for it, or end it"
        ) from None


def require_unshared(root: Path) -> None:
    """Refuse a folder of runs in which anybody may replace what jobs load.

    Raises:
        SlurmError: everybody may write to it.
    """
    mode = stat.S_IMODE(root.stat().st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise SlurmError(
            f"everybody may write to {root}, from which jobs load code: chmod o-w {root}, or give "
            "another paths.runs"
        )


def make_private(folder: Path) -> None:
    """Make a folder that only this user may write to, or see that it is one.

    Raises:
        SlurmError: somebody else owns it, or may write to it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise SlurmError(
            f"{folder} must belong to you and be writable by nobody else, because jobs load code "
            f"from it: chmod go-w {folder}, or give another paths.runs"
        )
