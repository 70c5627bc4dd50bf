"""`spam-lab status`: what the runs are really doing, read from their directories and from SLURM.

It promises to write nothing, and to need neither the record nor the process that launched the runs.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator

from spam_lab.commands import add_runs_argument, positive_seconds
from spam_lab.commands.overview import ALIVE, Overview, count, title
from spam_lab.commands.relaunch import sweep_command
from spam_lab.orchestrate.display import duration
from spam_lab.orchestrate.truth import Condition, Truth
from spam_lab.record.store import SweepManifest

SUMMARY = "show what the runs are doing"
DETAILS = """
Counts the runs of every sweep by what they are really doing, shows those that
run with step, loss, speed, time left and where, and says why others failed or
diverged:

  done, diverged  results
  running         a worker trains it
  silent          SLURM says its job runs, but its worker is not heard of
  queued          a SLURM job will train it
  lost            its worker was killed: launch again
  stopped         can go on from its checkpoint: launch again
  failed          launch again once it is mended
  waiting         not begun yet

  spam-lab status                    everything, once
  spam-lab status figure9            one sweep
  spam-lab status figure9 --watch    live, until nothing runs any more or Ctrl-C
  spam-lab status --watch 30 | tee progress.txt

Exit code 1 where runs failed or were lost.
"""

SECONDS = 5.0
RUNNING_SHOWN, REASONS_SHOWN, ALIKE_SHOWN, REASON_LETTERS = 20, 10, 3, 160


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="only this one (default: all)")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=positive_seconds,
        const=SECONDS,
        metavar="SECONDS",
        help=f"look again every SECONDS (default: {SECONDS:g}), until nothing runs any more",
    )
    add_runs_argument(parser)


def run(arguments: Namespace) -> int:
    """Print the state of things; 1 where runs failed or were lost."""
    overview = Overview.of(arguments.runs, arguments.sweep)
    if arguments.watch is not None:
        from spam_lab.commands.status_watch import watch

        if not watch(overview, arguments.watch):
            return 0
    print_overview(overview)
    bad = (Condition.FAILED, Condition.LOST)
    return int(any(truth.condition in bad for truth in overview.truths.values()))


def print_overview(overview: Overview) -> None:
    """Everything, as text."""
    if not overview.sweeps:
        print("no runs yet: python launch.py")
    for sweep in overview.sweeps:
        for line in _lines(overview, sweep):
            say(line)
    if overview.doubt:
        say(
            f"SLURM cannot be asked ({overview.doubt}): what is queued shows as waiting, and a "
            "worker that was not heard of for minutes as silent"
        )


def summary(overview: Overview, sweep: SweepManifest) -> str:
    """One line: figure9 (nano): 40 runs: 12 done, 28 queued."""
    return f"{title(sweep)}: {count(len(sweep.run_ids), 'run')}: {conditions(overview, sweep)}"


def conditions(overview: Overview, sweep: SweepManifest) -> str:
    """How many runs of a sweep are in which condition: 12 done, 28 queued."""
    counts = Counter(overview.truths[run_id].condition for run_id in sweep.run_ids)
    return ", ".join(f"{counts[c]} {c}" for c in Condition if counts[c])


def pending(overview: Overview, sweep: SweepManifest) -> str:
    """What the queued runs of a sweep wait for: 12 queued (Resources), 3 queued (Priority)."""
    reasons: Counter[str] = Counter()
    for run_id in sweep.run_ids:
        truth = overview.truths[run_id]
        if truth.condition is Condition.QUEUED and truth.job is not None:
            waits = truth.job.state == "PENDING"
            known = truth.job.reason or "no reason given yet"
            reasons[known if waits else "behind other runs of a running job"] += 1
    return ", ".join(f"{number} queued ({why})" for why, number in reasons.most_common())


def time_left(truth: Truth) -> str:
    """How long a run will still take at its present speed; empty where that is not known."""
    status = truth.status
    if not status.seconds_per_step or status.step >= status.steps:
        return ""
    return duration(status.seconds_per_step * (status.steps - status.step))


def where(truth: Truth) -> str:
    """The node, and the job where there is one: on n1 (job 12_3)."""
    status = truth.status
    parts = [
        f"on {status.host}" if status.host else "",
        f"(job {status.job})" if status.job else "",
    ]
    return " ".join(part for part in parts if part)


def silence(truth: Truth) -> str:
    """How long a worker has not been heard of, where that is long."""
    seconds = truth.silent_seconds
    if seconds is None or (truth.condition is Condition.RUNNING and seconds < 60):
        return ""
    return f"not heard of for {duration(seconds)}"


def progress(truth: Truth) -> str:
    """Everything about a run that is being trained, in one line."""
    status = truth.status
    parts = [f"step {status.step}/{status.steps}"]
    if status.loss is not None:
        parts.append(f"loss {status.loss:.3f}")
    if truth.condition is Condition.RUNNING:
        speed = status.tokens_per_second
        parts += [f"{speed:,.0f} tokens/s" if speed else "", _left(truth)]
    parts += [where(truth), silence(truth)]
    if truth.condition in (Condition.SILENT, Condition.LOST) and truth.job is not None:
        parts.append(f"SLURM says {truth.job}")
    return ", ".join(part for part in parts if part)


def _left(truth: Truth) -> str:
    known = time_left(truth)
    return f"{known} left" if known else ""


def _lines(overview: Overview, sweep: SweepManifest) -> Iterator[str]:
    yield summary(overview, sweep)
    found = [overview.truths[run_id] for run_id in sweep.run_ids]
    waits = pending(overview, sweep)
    if waits:
        yield f"  {waits}"
    active = [t for c in (Condition.RUNNING, Condition.SILENT) for t in found if t.condition is c]
    lines = [f"  {_head(overview, sweep, truth)}: {progress(truth)}" for truth in active]
    yield from lines[:RUNNING_SHOWN]
    if len(lines) > RUNNING_SHOWN:
        yield f"  ... and {len(lines) - RUNNING_SHOWN} more running (--watch shows them live)"
    yield from bad_ends(overview, sweep)
    yield from _next(overview, sweep, found)


def bad_ends(overview: Overview, sweep: SweepManifest) -> Iterator[str]:
    """A line for each run of a sweep that was lost, failed or diverged, with its reason."""
    found = [overview.truths[run_id] for run_id in sweep.run_ids]
    for condition in (Condition.LOST, Condition.FAILED, Condition.DIVERGED):
        yield from _reasons(overview, sweep, [t for t in found if t.condition is condition])


def _reasons(overview: Overview, sweep: SweepManifest, alike: list[Truth]) -> Iterator[str]:
    """A line a run; of many with the same reason, numbers apart, the first few."""
    lines: list[str] = []
    kinds: Counter[str] = Counter()
    for truth in alike:
        kind = re.sub(r"[\d.]+", "#", truth.status.reason)
        kinds[kind] += 1
        if kinds[kind] <= ALIKE_SHOWN:
            lines.append(f"  {_head(overview, sweep, truth)}: {_why(truth)}")
    shown = lines[:REASONS_SHOWN]
    yield from shown
    if len(alike) > len(shown):
        same = " for the same reason" if len(kinds) == 1 and "" not in kinds else ""
        yield f"  ... and {len(alike) - len(shown)} more {alike[0].condition}{same}"


def _head(overview: Overview, sweep: SweepManifest, truth: Truth) -> str:
    label = overview.labels(sweep).get(truth.run_id, "")
    return f"{truth.condition}: {truth.run_id}" + (f" ({label})" if label else "")


def _why(truth: Truth) -> str:
    if truth.condition is Condition.LOST:
        return progress(truth)
    reason = " ".join(truth.status.reason.split()) or "no reason was written down"
    return textwrap.shorten(reason, REASON_LETTERS, placeholder=" ...")


def _next(overview: Overview, sweep: SweepManifest, found: list[Truth]) -> Iterator[str]:
    """What to type next, where nothing goes on by itself."""
    counts = Counter(truth.condition for truth in found)
    bad = [truth for truth in found if truth.condition in (Condition.FAILED, Condition.LOST)]
    if bad:
        yield f"  why: spam-lab why {bad[0].run_id}"
    idle = (Condition.STOPPED, Condition.WAITING, Condition.LOST, Condition.FAILED)
    if not any(counts[condition] for condition in idle) or not sweep.scale:
        return
    if any(counts[condition] for condition in ALIVE):
        return
    if not overview.ordered_here().isdisjoint(sweep.run_ids):
        yield "  workers on this computer are about to train them"
    elif not overview.doubt:
        yield f"  nobody trains them; to go on: {sweep_command(overview.root, sweep)}"


def say(line: str) -> None:
    """Print a line, on a terminal folded to its width."""
    if not sys.stdout.isatty():
        print(line)
        return
    width = max(40, shutil.get_terminal_size().columns)
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    print(
        textwrap.fill(
            line,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )
