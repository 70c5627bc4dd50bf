"""`spam-lab cancel`: take back the SLURM jobs of runs, whether they wait or run.

It promises to end no run that was not named: a job that holds others too is cancelled only where
the whole of it is meant. A run in training is stopped by SLURM's own signal, with a checkpoint, and
workers on a computer are left to whoever started them.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from spam_lab.commands import CommandError, add_runs_argument
from spam_lab.commands.overview import ALIVE, Overview, capped, count
from spam_lab.commands.selection import find_runs
from spam_lab.commands.status import say, summary
from spam_lab.orchestrate.lease import lives_by_own_account
from spam_lab.orchestrate.slurm import ledger, queue
from spam_lab.orchestrate.slurm.queue import ON_NODES, JobInfo, SlurmError
from spam_lab.orchestrate.truth import Condition, Truth
from spam_lab.record.store import RunDirectory

SUMMARY = "cancel the SLURM jobs of runs"
DETAILS = """
Cancels the jobs that hold runs, whether they wait or run; what is being trained
stops at its next step, with a checkpoint, and a later launch goes on from
there. NAME is a sweep, the beginning of a run_id or a readable name. A job that
also holds runs which were not named is cancelled only with --yes. Workers on a
computer are not SLURM's: Ctrl-C where they were started stops them.

  spam-lab cancel figure9           every job of a sweep
  spam-lab cancel 3f9a 71c0
  spam-lab cancel --all             every job of this folder of runs
"""

SHOWN = 10
SECONDS = 20.0
"""How long to wait for jobs to end, so that it can be said what state things are in."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="sweeps or runs")
    parser.add_argument("--all", action="store_true", help="every run of the folder")
    parser.add_argument(
        "--yes", "-y", action="store_true", help="also jobs that hold other runs besides"
    )
    add_runs_argument(parser)


def run(arguments: Namespace) -> int:
    """Cancel, wait a little and say what is left; 1 where something that was named goes on."""
    if bool(arguments.names) == arguments.all:
        raise CommandError("name the sweeps or runs whose jobs to cancel, or give --all")
    overview = Overview.of(arguments.runs)
    if overview.doubt:
        raise CommandError(f"SLURM cannot be asked: {overview.doubt}")
    chosen = find_runs(overview, arguments.names)
    held = _held(overview)
    jobs = [job for job, runs in held.items() if not runs.isdisjoint(chosen)]
    _require_whole(overview, {job: held[job] - set(chosen) for job in jobs}, arguments.yes)
    here = [i for i in chosen if _trains_outside_slurm(overview, overview.truths[i])]
    if jobs:
        _cancel(jobs, overview.jobs)
        running = sum(overview.jobs[job].state in ON_NODES for job in jobs)
        say(
            f"cancelled {count(len(jobs), 'job')}: {_short(jobs)}"
            + (f"; {running} ran, and their runs stop at the next step" if running else "")
        )
        _wait(overview, jobs)
    for line in capped([_holder(overview, run_id) for run_id in here], SHOWN, "runs"):
        say(line)
    if not jobs and not here:
        print("no job holds any of these runs: nothing to cancel")
    sweeps = [s for s in overview.sweeps if not set(s.run_ids).isdisjoint(chosen)]
    for sweep in sweeps:
        say(summary(overview, sweep))
    alive = [i for i in chosen if overview.truths[i].condition in ALIVE]
    if alive and not here:
        say(
            f"{count(len(alive), 'run')} had not stopped yet: SLURM gives them time for a "
            "checkpoint; spam-lab status shows them"
        )
    return int(bool(here))


def _held(overview: Overview) -> dict[str, set[str]]:
    """The live jobs of this folder, each with the runs without an end that it was given."""
    found: dict[str, set[str]] = {}
    for run_id, job_ids in ledger.jobs_of(overview.root).items():
        truth = overview.truths.get(run_id)
        for job_id in job_ids:
            job = overview.jobs.get(job_id)
            if job is None or not job.is_live:
                continue
            runs = found.setdefault(job_id, set())
            if truth is None or not _elsewhere(truth, job_id, overview.jobs):
                runs.add(run_id)
    return found


def _elsewhere(truth: Truth, job_id: str, jobs: Mapping[str, JobInfo]) -> bool:
    """Whether a run that a job was given is none of its business any more."""
    status = truth.status
    if status.state.has_ended:
        return True
    if truth.condition not in (Condition.RUNNING, Condition.SILENT) or status.job == job_id:
        return False
    trains = jobs.get(status.job)
    return trains is not None and trains.state in ON_NODES


def _require_whole(overview: Overview, others: Mapping[str, set[str]], yes: bool) -> None:
    """Refuse to cancel a job that holds runs which were not named."""
    shared = {job: runs for job, runs in others.items() if runs}
    if not shared or yes:
        return
    job, runs = next(iter(shared.items()))
    shown = [overview.named(i) if i in overview.truths else i for i in sorted(runs)[:3]]
    more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
    also = f" (and {len(shared) - 1} more such jobs)" if len(shared) > 1 else ""
    raise CommandError(
        f"job {job} also holds {', '.join(shown)}{more}{also}: nothing was cancelled. Add --yes to "
        "cancel it all the same, or name these runs too"
    )


def _trains_outside_slurm(overview: Overview, truth: Truth) -> bool:
    return truth.condition is Condition.RUNNING and (
        not truth.status.job or truth.status.job not in overview.jobs
    )


def _holder(overview: Overview, run_id: str) -> str:
    """Who trains a run that no job of ours does, and how that is stopped."""
    status = overview.truths[run_id].status
    name = overview.named(run_id)
    if status.job:
        return f"{name}: job {status.job} trains it, which is not yours: ask its owner"
    where = "this computer" if lives_by_own_account(_lease(overview, run_id)) else status.host
    launcher = ""
    if where == "this computer":
        try:
            launcher = f", started by process {psutil.Process(status.pid).ppid()}"
        except psutil.Error:
            launcher = ""
    return (
        f"{name}: no job, but process {status.pid} on {where}{launcher} trains it: Ctrl-C where it "
        "was launched stops it, with a checkpoint"
    )


def _lease(overview: Overview, run_id: str) -> Path:
    return RunDirectory(overview.root, run_id).lease_path


def _cancel(jobs: Sequence[str], known: Mapping[str, JobInfo]) -> None:
    """Cancel jobs; an array of which nothing else is live, as one."""
    arrays: dict[str, list[str]] = {}
    for job in jobs:
        arrays.setdefault(job.partition("_")[0], []).append(job)
    asked: list[str] = []
    for array, elements in arrays.items():
        live = {i for i, job in known.items() if i.partition("_")[0] == array and job.is_live}
        asked += [array] if live <= set(elements) else elements
    try:
        queue.cancel(asked)
    except SlurmError as error:
        raise CommandError(f"SLURM does not cancel them: {error}") from None


def _wait(overview: Overview, jobs: Sequence[str]) -> None:
    """Wait until the jobs have ended and their runs say so, but not long."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        overview.look()
        if not any(job in overview.jobs and overview.jobs[job].is_live for job in jobs):
            return
        time.sleep(0.5)


def _short(jobs: Sequence[str]) -> str:
    """Job ids; many elements of one array as a number."""
    arrays: dict[str, list[str]] = {}
    for job in jobs:
        arrays.setdefault(job.partition("_")[0], []).append(job)
    parts = [
        ", ".join(ids) if len(ids) <= 4 else f"{len(ids)} elements of {array}"
        for array, ids in arrays.items()
    ]
    return ", ".join(capped(parts, SHOWN, "arrays"))
