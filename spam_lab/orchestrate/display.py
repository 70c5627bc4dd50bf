"""What the user sees: the plan as a table, the sweep's live progress, the summary at the end.

On a terminal the progress is redrawn in place; elsewhere (a log, a pipe) a line is printed now and
then. Nothing here decides anything.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from spam_lab.orchestrate.census import Census
from spam_lab.orchestrate.cost import Cost, Price, total
from spam_lab.orchestrate.plan import Action, Plan
from spam_lab.orchestrate.union import SHARED, sweeps_table
from spam_lab.record.state import State
from spam_lab.record.store import Status

PLAIN_SECONDS = 15.0
"""Seconds between lines where the output is not a terminal."""

ROWS = 60
"""Rows of the plan that are printed; the rest is counted."""


def print_plan(console: Console, plan: Plan, prices: Mapping[str, Price], workers: int) -> None:
    """The plan as a table, of runs or of several sweeps, with totals and expected cost."""
    if plan.name:
        console.print(f"sweep {plan.name}: {plan.description}", highlight=False)
    if plan.parts:
        console.print(sweeps_table(plan, prices))
        console.print(SHARED, highlight=False, soft_wrap=True)
    else:
        _print_runs(console, plan)
    console.print(totals(plan, total(prices.values()), workers), highlight=False, soft_wrap=True)


def _print_runs(console: Console, plan: Plan) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, width in (("run_id", 16), ("run", 0), ("cells", 5), ("state", 9), ("steps", 6)):
        right = name in ("cells", "steps")
        table.add_column(name, justify="right" if right else "left", min_width=width or None)
    table.add_column("action", min_width=6)
    for entry in plan.entries[:ROWS]:
        table.add_row(
            entry.run_id,
            entry.label,
            str(entry.cells),
            entry.status.state,
            str(entry.steps_left),
            entry.action,
        )
    console.print(table)
    if len(plan.entries) > ROWS:
        console.print(f"... and {len(plan.entries) - ROWS} more")


def totals(plan: Plan, cost: Cost, workers: int) -> str:
    """One line: runs, shared runs, what is due, what it costs; the plan's note before it."""
    actions = Counter(entry.action for entry in plan.entries)
    asked = sum(entry.cells for entry in plan.entries)
    runs = len(plan.entries)
    parts = ["1 run" if runs == 1 else f"{runs} runs"]
    if asked != len(plan.entries):
        parts.append(f"for {asked} requests ({asked - len(plan.entries)} shared)")
    parts.append(", ".join(f"{actions[a]} {_verb(a)}" for a in Action if actions[a]))
    line = ": ".join([" ".join(parts[:-1]), parts[-1]])
    if plan.note:
        line = f"{plan.note}\n{line}"
    shown = []
    if plan.due and cost.seconds is not None:
        wall = duration(cost.seconds / max(1, workers))
        shown.append(f"{wall} on this computer, {workers} at a time (from {cost.source})")
    if cost.h100_hours is not None:
        hours = f"{cost.h100_hours:,.1f} H100-hours (at the rate of the paper's Table 14)"
        small = f" for all but {cost.small} runs of small steps" if cost.small else ""
        shown.append(hours + small)
    return f"{line}. About {', or '.join(shown)}" if shown else line


def _verb(action: Action) -> str:
    return {
        Action.RUN: "to run",
        Action.RESUME: "to resume",
        Action.RETRY: "to retry",
        Action.LEAVE: "running elsewhere",
        Action.QUEUED: "in SLURM's queue",
        Action.NOTHING: "already there",
    }[action]


def duration(seconds: float) -> str:
    """A length of time as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:,.0f} days"


@dataclass
class Watch:
    """Live progress of a dispatch; call it with the census, several times a second."""

    console: Console
    plan: Plan
    _live: Live | None = None
    _started: float = field(default_factory=time.monotonic)
    _printed: float = 0.0
    _first: int | None = None

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, census: Census) -> None:
        """Show the progress as of `census`."""
        self._start_clock(census)
        if self._live is not None:
            self._live.update(self._panel(census))
        elif time.monotonic() - self._printed >= PLAIN_SECONDS:
            self._printed = time.monotonic()
            self.console.print(self._line(census), soft_wrap=True, highlight=False)

    def _panel(self, census: Census) -> Group:
        done, total = self._steps(census)
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=max(total, 1), completed=done, width=60))
        table = Table(box=None, padding=(0, 2), show_header=True)
        for name in ("running", "step", "loss", "tokens/s"):
            table.add_column(name, justify="left" if name == "running" else "right", no_wrap=True)
        for run_id, status in census.running():
            table.add_row(
                self.plan.labels[run_id],
                f"{status.step}/{status.steps}",
                _number(status.loss, ".3f"),
                _number(status.tokens_per_second, ",.0f"),
            )
        return Group(Text(self._line(census)), bar, table)

    def _line(self, census: Census) -> str:
        counts = census.counts()
        ended = sum(count for state, count in counts.items() if state.has_ended)
        running = census.running()
        left = len(census.run_ids) - ended - len(running)
        parts = [f"{ended} done, {len(running)} running, {left} left"]
        if counts[State.FAILED] or counts[State.DIVERGED]:
            parts.append(f"{counts[State.FAILED]} failed, {counts[State.DIVERGED]} diverged")
        losses = [f"{status.loss:.3f}" for _, status in running if status.loss is not None]
        if losses:
            parts.append(f"loss {' '.join(losses[:4])}")
        speed = sum(status.tokens_per_second or 0.0 for _, status in running)
        if speed:
            parts.append(f"{speed:,.0f} tokens/s")
        parts.append(self._time_left(census))
        return " | ".join(parts)

    def _steps(self, census: Census) -> tuple[int, int]:
        """Steps trained and to train, over the runs that were due."""
        done = total = 0
        for entry in self.plan.due:
            steps = entry.config.schedule.steps
            status = census.statuses.get(entry.run_id, Status())
            reached = steps if status.state.has_ended else status.step
            done += max(0, reached - entry.status.checkpoint_step)
            total += entry.steps_left
        return done, total

    def _time_left(self, census: Census) -> str:
        done, total = self._steps(census)
        elapsed = time.monotonic() - self._started
        if self._first is None or done <= self._first or elapsed < 1:
            return "starting"
        return f"{duration(elapsed / (done - self._first) * (total - done))} left"

    def _start_clock(self, census: Census) -> None:
        """Time counts from the first step seen: importing torch takes seconds."""
        if self._first is None:
            done, _ = self._steps(census)
            if done:
                self._started, self._first = time.monotonic(), done


def print_summary(console: Console, plan: Plan, census: Census) -> None:
    """How the runs ended, with the reason of each that did not end well."""
    counts = census.counts()
    shown = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    console.print(f"{len(census.run_ids)} runs: {shown}", highlight=False)
    for run_id, status in census.ended_badly():
        console.print(
            f"  {status.state}: {run_id} ({plan.labels[run_id]}): {status.reason}",
            highlight=False,
            soft_wrap=True,
        )
        if status.state is State.FAILED:
            console.print(f"    log: {plan.root / run_id / 'log.txt'}", highlight=False)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
