"""`spam-lab why`: one run, how it stands, how it came to that, and what to do next.

It puts together what the run directory, the worker's log and SLURM say, and promises to read only.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from spam_lab.commands import add_runs_argument
from spam_lab.commands.advice import Evidence, advice
from spam_lab.commands.job_output import jobs_of_run, last_output, last_traceback, tail
from spam_lab.commands.overview import SINGLE, Overview, title
from spam_lab.commands.relaunch import launch_command
from spam_lab.commands.selection import find_run
from spam_lab.commands.status import progress, say
from spam_lab.orchestrate.display import duration
from spam_lab.orchestrate.slurm import queue
from spam_lab.orchestrate.slurm.queue import JobInfo
from spam_lab.orchestrate.truth import Condition, Truth
from spam_lab.record.store import RunDirectory

SUMMARY = "tell what became of one run, and what to do"
DETAILS = """
Tells how one run stands, when and where that came about, what SLURM says of its
job, the last traceback of its log, and what to do next, with the command to
type. RUN is the beginning of a run_id, or words of its readable name that no
other run has.

  spam-lab why 3f9a
  spam-lab why "theta=500 seed=1"
"""

CHANGES_SHOWN, JOBS_SHOWN = 12, 6
TRACEBACK_HEAD, TRACEBACK_TAIL = 3, 22
BAD = (Condition.FAILED, Condition.LOST)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("run", metavar="RUN", help="beginning of a run_id, or a readable name")
    add_runs_argument(parser)


def run(arguments: Namespace) -> int:
    """Tell everything about a run; 1 where it failed or was lost."""
    overview = Overview.of(arguments.runs)
    run_id = find_run(overview, arguments.run)
    truth = overview.truths[run_id]
    directory = RunDirectory(arguments.runs, run_id)
    history = directory.history()
    sweeps = [s for s in overview.sweeps if run_id in s.run_ids and s.name != SINGLE]
    of = f" of {', '.join(title(sweep) for sweep in sweeps)}" if sweeps else ""
    say(f"{overview.named(run_id)}{of}")
    for line in _standing(truth):
        say(line)
    if overview.doubt:
        say(f"SLURM      cannot be asked: {overview.doubt}")
    jobs = _jobs(overview, directory, truth)
    for line in _job_lines(jobs):
        say(line)
    for line in _changes(history):
        say(line)
    evidence_text, shown = _log(directory, truth, history)
    for line in shown:
        print(line)
    evidence = Evidence(
        truth,
        _job_of_end(jobs, truth),
        f"{truth.status.reason}\n{evidence_text}",
        _config(directory),
        lambda *extra: launch_command(overview, run_id, extra),
        sweeps[0].name if sweeps else "",
    )
    do = advice(evidence)
    say(f"what to do: {do.text}")
    if do.command:
        print(f"  {do.command}")  # never folded: it is to be copied
    return int(truth.condition in BAD)


def _standing(truth: Truth) -> Iterator[str]:
    status = truth.status
    if truth.condition in (Condition.RUNNING, Condition.SILENT, Condition.LOST):
        yield f"condition  {truth.condition}: {progress(truth)}"
    elif status.steps:
        at = f"step {status.step} of {status.steps}"
        kept = f", checkpoint at {status.checkpoint_step}" if status.checkpoint_step else ""
        yield f"condition  {truth.condition}: {at}{kept}, {_attempts(status.attempt)}"
    else:
        yield f"condition  {truth.condition}"
    if status.state.value != truth.condition.value:
        yield f"state      {status.state} is what its worker wrote last"
    if status.reason:
        yield f"reason     {' '.join(status.reason.split())}"
    if status.updated_ms:
        where = f" on {status.host}" if status.host else ""
        ago = duration(max(0.0, time.time() - status.updated_ms / 1000))
        yield f"last seen  {_time(status.updated_ms)}{where}, {ago} ago"


def _attempts(attempt: int) -> str:
    return "never begun" if not attempt else f"attempt {attempt}"


def _changes(history: list[dict[str, Any]]) -> Iterator[str]:
    if not history:
        return
    yield "history"
    if len(history) > CHANGES_SHOWN:
        yield f"  ... {len(history) - CHANGES_SHOWN} changes before"
    for line in history[-CHANGES_SHOWN:]:
        parts = [f"  {_time(line.get('updated_ms', 0))} {line.get('state', '?'):9}"]
        if line.get("state") != "submitted":
            parts.append(f"step {line.get('step', 0)}")
            parts.append(f"on {line['host']}" if line.get("host") else "")
            parts.append(f"(job {line['job']})" if line.get("job") else "")
        reason = " ".join(str(line.get("reason") or "").split())
        parts.append(f": {reason}" if reason and line.get("state") != "running" else "")
        yield " ".join(part for part in parts if part).replace(" : ", ": ").rstrip()


def _jobs(overview: Overview, directory: RunDirectory, truth: Truth) -> dict[str, JobInfo | None]:
    """The run's jobs, oldest first, with SLURM's account; None where it no longer knows one."""
    ids = jobs_of_run(directory)
    if truth.job is not None and truth.job.job_id not in ids:
        ids.append(truth.job.job_id)
    ended: dict[str, JobInfo] = {}
    if ids and not overview.doubt and any(i not in overview.jobs for i in ids):
        ended = queue.ended_jobs(ids)
    return {job_id: overview.jobs.get(job_id) or ended.get(job_id) for job_id in ids}


def _job_lines(jobs: dict[str, JobInfo | None]) -> Iterator[str]:
    last = list(jobs.items())[-JOBS_SHOWN:]
    for job_id, info in last:
        yield f"job {job_id:6} {info or 'SLURM no longer knows it'}"
    if len(jobs) > len(last):
        yield f"  ... and {len(jobs) - len(last)} jobs before"


def _job_of_end(jobs: dict[str, JobInfo | None], truth: Truth) -> JobInfo | None:
    """The job that tells how the run ended: the one that trained it, else the last."""
    own = jobs.get(truth.status.job)
    if own is not None or truth.status.job:
        return own
    return next((info for info in reversed(jobs.values()) if info is not None), None)


def _log(
    directory: RunDirectory, truth: Truth, history: list[dict[str, Any]]
) -> tuple[str, list[str]]:
    """What the logs say of a bad end: as evidence, and as lines to show."""
    found, at = last_traceback(directory.log_path)
    begun = [line.get("updated_ms", 0) for line in history if line.get("state") == "running"]
    # Its worker was killed, or there was a later attempt: an old traceback explains nothing.
    recent = at is None or not begun or at + 1 >= begun[-1] / 1000
    bad = truth.condition in BAD
    if found and bad and recent and truth.condition is Condition.FAILED:
        head, end = found[:TRACEBACK_HEAD], found[TRACEBACK_HEAD:]
        cut = len(end) - TRACEBACK_TAIL
        if cut > 0:
            end = [f"    ... {cut} lines, all in {directory.log_path}", *end[cut:]]
        shown = [f"log        {directory.log_path}", *(f"  {line}" for line in [*head, *end])]
        return "\n".join(found), shown
    if bad:
        output = last_output(directory, truth.status.job)
        if output is not None:
            lines = [line for line in tail(output[1], 12) if line.strip()]
            told = [f"job log    {output[1]}", *(f"  {line}" for line in lines)]
            return "\n".join(lines), told
    if found:
        when = f" at {_time(int(at * 1000))}" if at is not None else ""
        return "", [
            f"log        {directory.log_path} ends with an older error{when}:",
            f"  {found[-1]}",
        ]
    return "", []


def _config(directory: RunDirectory) -> dict[str, Any]:
    if not (directory.path / "config.json").exists():
        return {}
    found: dict[str, Any] = directory.config_file()["config"]
    return found


def _time(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))
