"""Launching on a SLURM cluster: plan, check, submit, say what to type next, and leave.

It promises that the plan is printed before anything is submitted, and that the command may be ended
at any time: what was submitted stays, and the next call knows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from rich.console import Console

from spam_lab.config.schema import CommandConfig
from spam_lab.orchestrate.census import Census
from spam_lab.orchestrate.cost import Cost, history, prices
from spam_lab.orchestrate.display import Watch, print_plan, print_summary, totals
from spam_lab.orchestrate.plan import Plan
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.slurm import ledger, queue, resources
from spam_lab.orchestrate.slurm.ledger import Submission
from spam_lab.orchestrate.slurm.packing import JobArray, pack
from spam_lab.orchestrate.slurm.queue import SlurmError
from spam_lab.orchestrate.slurm.resources import world_size
from spam_lab.orchestrate.slurm.site import max_array_size
from spam_lab.orchestrate.slurm.submit import check_arrays, settle, submit, warnings
from spam_lab.orchestrate.truth import Condition, slurm_account, slurm_jobs, truths

POLL_SECONDS = 2.0
ARRAYS_SHOWN = 20
WITHOUT_SLURM = 1001
"""SLURM's default MaxArraySize, for plans made where there is no SLURM."""

MakePlan = Callable[[Collection[str]], Plan]
"""The plan of the command line, given the runs that jobs hold already."""


def launch_on_slurm(
    command: CommandConfig,
    make: MakePlan,
    host_of: Callable[[Plan], Host],
    overrides: Sequence[str],
    console: Console,
) -> int:
    """Submit what is due and leave, or follow it where that is asked for.

    Returns:
        0 where everything is submitted or there; with `follow`, where everything has a result.
    """
    root = Path(command.paths.runs)
    resources.check(command.cluster)
    if command.dry_run:
        return _dry_run(root, make, host_of, console)
    queue.require()
    with ledger.locked(root):
        jobs = slurm_jobs(root)
        for line in settle(root, jobs):
            console.print(line, highlight=False)
        plan = make(ledger.held(root, jobs))
        host = host_of(plan)
        arrays = pack(plan.due, history(root), max_array_size())
        console.print(totals(plan, Cost(None, ""), 1), highlight=False, soft_wrap=True)
        _print_arrays(console, arrays)
        if arrays:
            check_arrays(arrays)
            for line in warnings(root):
                console.print(line, highlight=False, soft_wrap=True)
            submission = submit(plan, arrays, host, overrides)
            _print_submitted(console, submission)
    _print_next(console, plan)
    return _follow(console, plan) if command.follow else 0


def _dry_run(root: Path, make: MakePlan, host_of: Callable[[Plan], Host], console: Console) -> int:
    try:
        queue.require()
        doubt = ""
    except SlurmError as error:  # a plan is worth having where there is no cluster
        doubt = str(error)
    plan = make(ledger.held(root, slurm_jobs(root)))
    with console.status("timing a few training steps of each shape that is new here"):
        known = prices(plan, measure=True)
    print_plan(console, plan, known, 1)
    size = WITHOUT_SLURM if doubt else max_array_size()
    arrays = pack(plan.due, history(root), size)
    _print_arrays(console, arrays)
    if doubt:
        console.print(f"SLURM was not asked: {doubt}", highlight=False, soft_wrap=True)
    elif arrays:
        check_arrays(arrays)
        console.print("SLURM would take these jobs (sbatch --test-only); nothing was submitted")
    return 0


def _print_arrays(console: Console, arrays: Sequence[JobArray]) -> None:
    for array in arrays[:ARRAYS_SHOWN]:
        cluster = array.cluster
        nodes = f"{cluster.nodes} nodes of " if cluster.nodes > 1 else ""
        asked = [f"{nodes}{cluster.gpus} GPU{'s' if cluster.gpus != 1 else ''}"]
        if world_size(cluster) > 1:
            asked.append(f"{world_size(cluster)} processes a run")
        if cluster.memory:
            asked.append(f"{cluster.memory:g} GB")
        asked.append(f"{cluster.time} min")
        if cluster.partition:
            asked.append(f"partition {cluster.partition}")
        if cluster.max_jobs:
            asked.append(f"at most {cluster.max_jobs} at a time")
        runs, jobs = len(array.run_ids), array.jobs
        console.print(
            f"  {jobs} job{'s' if jobs != 1 else ''} for {runs} run{'s' if runs != 1 else ''}, "
            f"{', '.join(asked)} ({array.reason})",
            highlight=False,
            soft_wrap=True,
        )
    if len(arrays) > ARRAYS_SHOWN:
        console.print(f"  ... and {len(arrays) - ARRAYS_SHOWN} more arrays")


def _print_submitted(console: Console, submission: Submission) -> None:
    shown = [
        f"{array.job_ids[0].partition('_')[0]}"
        + (f" ({array.jobs} elements)" if array.jobs > 1 else "")
        for array in submission.arrays
    ]
    console.print(f"submitted: job {', '.join(shown)}", highlight=False, soft_wrap=True)


def _print_next(console: Console, plan: Plan) -> None:
    name = "".join(f" {sweep}" for sweep in plan.sweeps)
    console.print(
        f"what they do:  spam-lab status{name}\n"
        f"in MLflow:     spam-lab sync\n"
        f"take back:     spam-lab cancel{name}",
        highlight=False,
        soft_wrap=True,
    )


def _follow(console: Console, plan: Plan) -> int:
    """Show progress until nothing of the plan is queued or running. Ctrl-C leaves the jobs."""
    ids = [entry.run_id for entry in plan.entries]
    census = Census(plan.root, ids)
    try:
        with Watch(console, plan) as watch:
            while True:
                census.refresh()
                watch(census)
                if not _goes_on(plan, ids):
                    break
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        console.print("left; the jobs go on. spam-lab status shows them", highlight=False)
        return 0
    print_summary(console, plan, census)
    return 0 if all(status.state.is_result for status in census.statuses.values()) else 1


def _goes_on(plan: Plan, ids: Sequence[str]) -> bool:
    """Whether somebody trains a run, or will; so it is taken where SLURM cannot be asked."""
    jobs, doubt = slurm_account(plan.root)
    live = (Condition.RUNNING, Condition.SILENT, Condition.QUEUED)
    found = truths(plan.root, ids, jobs).values()
    return any(t.condition in live or (doubt and not t.status.state.has_ended) for t in found)
