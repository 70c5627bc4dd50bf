"""`spam-lab status --watch`: the sweeps live, a progress bar each, a line for what runs and one for
what failed.

In a terminal it is redrawn in place, elsewhere a line a sweep is printed at every look. It ends by
itself when nothing runs or waits any more, and writes nothing, like the verb it belongs to.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from spam_lab.commands.overview import Overview
from spam_lab.commands.status import bad_ends, pending, silence, summary, time_left, where
from spam_lab.files import number_from
from spam_lab.orchestrate.display import duration
from spam_lab.orchestrate.truth import Condition, Truth
from spam_lab.record.store import RunDirectory, SweepManifest

_TAIL_BYTES = 32 * 1024
_LOSSES = 20
BAD_ENDS_SHOWN = 5
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
    """A line a sweep, and one for each bad end that was not `told` of before."""
    stamp = time.strftime("%H:%M:%S")
    for sweep in overview.sweeps:
        running = _running(overview, sweep)
        speed = sum(truth.status.tokens_per_second or 0.0 for truth in running)
        parts = [summary(overview, sweep), pending(overview, sweep)]
        parts += [_percent(overview, sweep), f"{speed:,.0f} tokens/s" if speed else ""]
        parts.append(_sweep_left(overview, sweep))
        print(f"{stamp} {' | '.join(part for part in parts if part)}", flush=True)
        for end in bad_ends(overview, sweep):
            if end not in told:
                told.add(end)
                print(f"{stamp} {end}", flush=True)


def _picture(overview: Overview, console: Console) -> Group:
    parts: list[Text | Table] = []
    rows_left = max(4, console.height - 4 * len(overview.sweeps) - 2)
    for sweep in overview.sweeps:
        parts.append(Text(summary(overview, sweep)))
        bar = Table.grid(padding=(0, 1))  # a bar alone does not end its line
        done, total = _steps(overview, sweep)
        width = min(40, console.width - 40)
        known = (_percent(overview, sweep), _sweep_left(overview, sweep))
        text = ", ".join(part for part in known if part)
        bar.add_row(ProgressBar(total=max(total, 1), completed=done, width=width), text)
        parts.append(bar)
        waits = pending(overview, sweep)
        if waits:
            parts.append(Text(waits))
        running = _running(overview, sweep)
        if running:
            parts.append(_table(overview, sweep, running[:rows_left], console))
            if len(running) > rows_left:
                parts.append(Text(f"  ... and {len(running) - rows_left} more running"))
            rows_left = max(1, rows_left - len(running))
        ends = list(bad_ends(overview, sweep))
        parts += [_one_line(end, console) for end in ends[:BAD_ENDS_SHOWN]]
        if len(ends) > BAD_ENDS_SHOWN:
            parts.append(Text("  ... spam-lab status shows all that ended badly"))
    if overview.doubt:
        parts.append(Text(f"SLURM cannot be asked: {overview.doubt}"))
    parts.append(Text("Ctrl-C ends this view; the runs go on", style="dim"))
    return Group(*parts)


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


def _percent(overview: Overview, sweep: SweepManifest) -> str:
    done, total = _steps(overview, sweep)
    return f"{100 * done // total}% of steps" if total else ""


def _sweep_left(overview: Overview, sweep: SweepManifest) -> str:
    """How long the sweep still takes at the present speed of what runs; empty where unknown."""
    seconds = [truth.status.seconds_per_step for truth in _running(overview, sweep)]
    rate = sum(1 / each for each in seconds if each)
    done, total = _steps(overview, sweep)
    return f"about {duration((total - done) / rate)} left" if rate and total > done else ""


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
