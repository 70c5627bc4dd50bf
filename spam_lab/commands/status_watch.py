"""`spam-lab status --watch`: the sweeps live, a row and progress bar each, and below them a line
for each run that is trained and one for each that failed.

In a terminal it is redrawn in place, elsewhere a line is printed at every look for each sweep that
may still change. It ends by
itself when nothing runs or waits any more, and writes nothing, like the verb it belongs to.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from spam_lab.commands.overview import Overview, title
from spam_lab.commands.status import (
    bad_ends,
    conditions,
    pending,
    silence,
    summary,
    time_left,
    where,
)
from spam_lab.files import number_from
from spam_lab.orchestrate.display import duration
from spam_lab.orchestrate.truth import Condition, Truth
from spam_lab.record.store import RunDirectory, SweepManifest

_TAIL_BYTES = 32 * 1024
_LOSSES = 20
BAD_ENDS_SHOWN = 5
BAR_WIDTH = 16
_BLOCKS = "▁▂▃▄▅▆▇█"


def watch(overview: Overview, seconds: float) -> bool:
    """Show the overview until nothing goes on in it; False where Ctrl-C ended that."""
    console = Console(highlight=False)
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    told: set[str] = set()
    with live or contextlib.nullcontext():
        try:
            while overview.goes_on():
                if live is not None:
                    live.update(_picture(overview, console), refresh=True)
                else:
                    _print_lines(overview, told)
                time.sleep(seconds)
                overview.look()
        except KeyboardInterrupt:
            if live is not None:
                live.update(_picture(overview, console), refresh=True)
            return False
        if live is not None:
            live.update(Text(""), refresh=True)
    return True


def losses(path: Path) -> list[float]:
    """The last training losses of a run, from the end of its metric log alone."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines[1 if size > _TAIL_BYTES else 0 : -1]:
        try:
            value = json.loads(line)["values"].get("train/loss")
        except (ValueError, LookupError, TypeError):
            continue
        if value is not None:
            found.append(number_from(value))
    return found[-_LOSSES:]


def sparkline(values: list[float]) -> str:
    """Values as a row of blocks, lowest to highest; what is not finite is a cross."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    return "".join(
        _BLOCKS[int((value - low) / span * (len(_BLOCKS) - 1)) if span else 0]
        if math.isfinite(value)
        else "×"
        for value in values
    )


def _print_lines(overview: Overview, told: set[str]) -> None:
    """A line a sweep; what does not change any more, and each bad end, are `told` of once."""
    stamp = time.strftime("%H:%M:%S")
    for sweep in overview.sweeps:
        running = _running(overview, sweep)
        speed = sum(truth.status.tokens_per_second or 0.0 for truth in running)
        parts = [summary(overview, sweep), pending(overview, sweep)]
        parts += [_percent(overview, sweep), f"{speed:,.0f} tokens/s" if speed else ""]
        left = _sweep_left(overview, sweep)
        parts.append(f"about {left} left" if left else "")
        line = " | ".join(part for part in parts if part)
        if not (_is_finished(overview, sweep) and line in told):
            told.add(line)
            print(f"{stamp} {line}", flush=True)
        for end in bad_ends(overview, sweep):
            if end not in told:
                told.add(end)
                print(f"{stamp} {end}", flush=True)


def _picture(overview: Overview, console: Console) -> Group:
    """The table of sweeps, and below it, for each, what runs and what ended badly."""
    parts: list[Text | Table] = []
    shown = overview.sweeps
    if len(shown) > console.height // 2:  # a terminal shows what is at the top alone
        shown = [sweep for sweep in shown if not _is_finished(overview, sweep)]
    if shown:
        parts.append(_sweeps_table(overview, shown))
    if len(shown) < len(overview.sweeps):
        parts.append(Text(f"{len(overview.sweeps) - len(shown)} sweeps have all their results"))
    rows_left = max(4, console.height - len(shown) - 6)
    seen: set[str] = set()
    for sweep in overview.sweeps:
        # What several sweeps asked for stands under the first of them.
        running = [truth for truth in _running(overview, sweep) if truth.run_id not in seen]
        ends = [end for end in bad_ends(overview, sweep) if end not in seen]
        seen |= {truth.run_id for truth in running} | set(ends)
        waits = pending(overview, sweep)
        if not (running or ends or waits):
            continue
        parts += [Text(""), Text(f"{title(sweep)}{f': {waits}' if waits else ''}", style="bold")]
        if running:
            parts.append(_table(overview, sweep, running[:rows_left], console))
            if len(running) > rows_left:
                parts.append(Text(f"  ... and {len(running) - rows_left} more running"))
            rows_left = max(1, rows_left - len(running))
        parts += [_one_line(end, console) for end in ends[:BAD_ENDS_SHOWN]]
        if len(ends) > BAD_ENDS_SHOWN:
            parts.append(Text("  ... spam-lab status shows all that ended badly"))
    if overview.doubt:
        parts.append(Text(f"SLURM cannot be asked: {overview.doubt}"))
    parts += [Text(""), Text("Ctrl-C ends this view; the runs go on", style="dim")]
    return Group(*parts)


def _sweeps_table(overview: Overview, sweeps: Sequence[SweepManifest]) -> Table:
    """A row a sweep: how far its steps are, what its runs do, and the time left."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("sweep", no_wrap=True)
    table.add_column("steps", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("runs")
    table.add_column("left", justify="right", no_wrap=True)
    for sweep in sweeps:
        done, total = _steps(overview, sweep)
        table.add_row(
            title(sweep),
            ProgressBar(max(total, 1), done, BAR_WIDTH, complete_style="cyan"),
            f"{100 * done // total}%" if total else "",
            conditions(overview, sweep),
            _sweep_left(overview, sweep),
        )
    return table


def _one_line(text: str, console: Console) -> Text:
    """As much of the text as fits; `spam-lab why` has the rest."""
    line = Text(text)
    line.truncate(
        console.width, overflow="ellipsis" if console.encoding.startswith("utf") else "crop"
    )
    return line


def _table(
    overview: Overview, sweep: SweepManifest, running: list[Truth], console: Console
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    blocks = console.encoding.startswith("utf")
    table.add_column("run", overflow="fold", ratio=1)
    for name in ("step", "loss", "tok/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last losses" if blocks else "", no_wrap=True)
    labels = overview.labels(sweep)
    for truth in running:
        status = truth.status
        path = RunDirectory(overview.root, truth.run_id).metrics_path
        speed = status.tokens_per_second
        at = ", ".join(part for part in (where(truth), silence(truth)) if part)
        table.add_row(
            f"{labels.get(truth.run_id, truth.run_id)}" + (f" [{at}]" if at else ""),
            f"{status.step}/{status.steps}",
            "" if status.loss is None else f"{status.loss:.3f}",
            f"{speed:,.0f}" if speed else "",
            time_left(truth),
            sparkline(losses(path)) if blocks else "",
        )
    return table


def _running(overview: Overview, sweep: SweepManifest) -> list[Truth]:
    found = [overview.truths[run_id] for run_id in sweep.run_ids]
    return [t for t in found if t.condition in (Condition.RUNNING, Condition.SILENT)]


def _is_finished(overview: Overview, sweep: SweepManifest) -> bool:
    """Whether every run of a sweep has a result."""
    results = (Condition.DONE, Condition.DIVERGED)
    return all(overview.truths[run_id].condition in results for run_id in sweep.run_ids)


def _percent(overview: Overview, sweep: SweepManifest) -> str:
    done, total = _steps(overview, sweep)
    return f"{100 * done // total}% of steps" if total else ""


def _sweep_left(overview: Overview, sweep: SweepManifest) -> str:
    """How long the sweep still takes at the present speed of what runs; empty where unknown."""
    seconds = [truth.status.seconds_per_step for truth in _running(overview, sweep)]
    rate = sum(1 / each for each in seconds if each)
    done, total = _steps(overview, sweep)
    return duration((total - done) / rate) if rate and total > done else ""


def _steps(overview: Overview, sweep: SweepManifest) -> tuple[int, int]:
    """Steps trained, and to train in all; a run with an end has done its own."""
    found = [overview.truths[run_id] for run_id in sweep.run_ids]
    usual = max((truth.status.steps for truth in found), default=0)
    done = total = 0
    for truth in found:
        steps = truth.status.steps or usual  # a run that was never submitted has not said yet
        total += steps
        done += steps if truth.status.state.has_ended else min(truth.status.step, steps)
    return done, total
