"""What runs are really doing: status, lease and SLURM's own account, put together without writing.

A status file says what a worker last wrote; a worker that was killed wrote nothing. Here `running`
is believed only while somebody breathes or SLURM says that the job is on its nodes, and a run that
waits is told apart from one that nothing will ever start.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from spam_lab.orchestrate.lease import STALE_SECONDS, last_beat, lives_by_own_account
from spam_lab.orchestrate.slurm import ledger, queue
from spam_lab.orchestrate.slurm.queue import ON_NODES, JobInfo, SlurmError
from spam_lab.orchestrate.stop import PRUNED
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, Status


class Condition(StrEnum):
    """What a run is really doing."""

    DONE = "done"
    DIVERGED = "diverged"
    FAILED = "failed"
    RUNNING = "running"
    SILENT = "silent"
    """SLURM says that its job runs, but its worker has not been heard of for minutes."""
    QUEUED = "queued"
    """A job that waits, or that runs and has not come to it yet, was given it."""
    LOST = "lost"
    """Marked as running, and nobody holds it: its worker was killed."""
    STOPPED = "stopped"
    """Stopped with a checkpoint; nothing goes on with it until it is launched again."""
    PRUNED = "pruned"
    """Given up by its study, with a checkpoint; it goes on if it is asked for by itself."""
    WAITING = "waiting"
    """Asked for, never begun, and no job holds it."""


@dataclass(frozen=True)
class Truth:
    """One run. `job` is SLURM's account of the job that has or had it, where there is one.

    `silent_seconds` is how long its worker has not been heard of, where it says it is running.
    """

    run_id: str
    status: Status
    condition: Condition
    job: JobInfo | None = None
    silent_seconds: float | None = None


def slurm_account(root: Path) -> tuple[dict[str, JobInfo], str]:
    """SLURM's account of this user's jobs, by job id, and why there is none where there should be.

    Nobody is asked where nothing was ever submitted from `root`.
    """
    if not (root / ledger.FOLDER).exists():
        return {}, ""
    if not queue.is_here():
        return {}, "this computer has no SLURM commands"
    try:
        return {job.job_id: job for job in queue.own_jobs()}, ""
    except SlurmError as error:
        return {}, str(error)


def slurm_jobs(root: Path) -> dict[str, JobInfo]:
    """SLURM's account of this user's jobs, by job id; empty where it cannot be asked."""
    return slurm_account(root)[0]


def truths(
    root: Path, run_ids: Sequence[str], jobs: Mapping[str, JobInfo] | None = None
) -> dict[str, Truth]:
    """The truth about each run, by run_id, in the order asked.

    Args:
        root: the folder of run directories.
        run_ids: which runs.
        jobs: `slurm_jobs(root)`; asked for here where it is not given.

    Raises:
        StoreError: a status file is damaged.
    """
    known = slurm_jobs(root) if jobs is None else jobs
    held = ledger.held(root, known) if known else {}
    return {run_id: _truth(root, run_id, known, held.get(run_id)) for run_id in run_ids}


def counts(found: Mapping[str, Truth]) -> Counter[Condition]:
    """How many runs are in each condition."""
    return Counter(truth.condition for truth in found.values())


def _truth(root: Path, run_id: str, jobs: Mapping[str, JobInfo], holder: JobInfo | None) -> Truth:
    directory = RunDirectory(root, run_id)
    status = directory.status()
    own = jobs.get(status.job)
    if status.state.has_ended:
        return Truth(run_id, status, Condition(status.state.value), own)
    if status.state is State.RUNNING:
        return _running(directory, status, own, holder)
    if holder is not None:
        return Truth(run_id, status, Condition.QUEUED, holder)
    return Truth(run_id, status, _idle(status), own)


def _idle(status: Status) -> Condition:
    """What a run is that nobody holds and that has no end."""
    if status.state not in (State.PREEMPTED, State.TIMED_OUT):
        return Condition.WAITING
    return Condition.PRUNED if status.reason.startswith(PRUNED) else Condition.STOPPED


def _running(
    directory: RunDirectory, status: Status, own: JobInfo | None, holder: JobInfo | None
) -> Truth:
    run_id = directory.run_id
    here = lives_by_own_account(directory.lease_path)
    beat = last_beat(directory.lease_path)
    silent = None if beat is None else max(0.0, time.time() - beat)
    fresh = silent is not None and silent < STALE_SECONDS
    if here is not None:
        alive = here
    elif own is not None and beat is not None:
        alive = own.state in ON_NODES
    else:
        alive = fresh
    if alive:
        condition = Condition.RUNNING if here or fresh else Condition.SILENT
        return Truth(run_id, status, condition, own, silent)
    if holder is not None:
        return Truth(run_id, status, Condition.QUEUED, holder, silent)
    return Truth(run_id, status, Condition.LOST, own, silent)
