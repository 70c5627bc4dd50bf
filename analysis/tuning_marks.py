"""What the panels of a study have in common: marks of trials, names of keys, axes and their range.

A trial without a value (diverged, failed) is a mark at the upper edge, never a number; one that is
far above the rest is a mark there too, so that it does not squash the others.
"""

from __future__ import annotations

import math
import textwrap
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from analysis.drawing import GREY, INK, VERMILLION
from analysis.paper_setting import PaperSetting
from analysis.trials import COMPLETE, Axis, Record, Trial
from spam_lab.orchestrate.search import LOSS, STATE_BYTES

SYMBOLS = {
    "optimizer.theta": "θ",
    "optimizer.delta_t": "ΔT",
    "optimizer.warmup_steps": "N",
    "optimizer.density": "d",
    "optimizer.lr": "learning rate",
}
IN_STEPS = ("optimizer.delta_t", "optimizer.warmup_steps")
OBJECTIVES = {LOSS: "validation loss", STATE_BYTES: "optimizer state, MB"}
FAR = 2.5
"""A loss this many times as far above the best as the median trial is drawn at the upper edge."""
CROWDED = 0.18
"""Ticks nearer than this part of an axis are left out."""

MARKS: dict[str, dict[str, Any]] = {
    COMPLETE: {"marker": "o", "color": GREY, "ms": 3.4, "alpha": 0.75},
    "pruned": {"marker": "v", "color": GREY, "ms": 4.2, "mfc": "none"},
    "diverged": {"marker": "X", "color": VERMILLION, "ms": 6, "mec": "white", "mew": 0.5},
    "failed": {"marker": "+", "color": INK, "ms": 6.5, "mew": 1.3},
    "far": {"marker": "^", "color": GREY, "ms": 4.4, "alpha": 0.75},
}
NAMES = {
    COMPLETE: "trial",
    "pruned": "pruned, its loss when stopped",
    "diverged": "diverged",
    "failed": "failed",
    "far": "trial above the panel",
}
PAPER: dict[str, Any] = {"marker": "D", "color": VERMILLION, "ms": 7.5, "mec": "white", "mew": 1.0}


def shown_key(key: str) -> str:
    """A key's symbol, or the key."""
    return SYMBOLS.get(key, key)


def in_lines(text: str) -> str:
    """A key or a choice as a narrow label."""
    return text.replace(".", ".\n").replace("_", "\n" if "." not in text else " ")


def limits(record: Record, paper: PaperSetting, far: float = FAR) -> tuple[float, float]:
    """The range of losses that a panel shows; `far` is as `FAR`."""
    values = [record.value(trial) for trial in record.complete]
    if not values:
        return 0.0, 1.0
    best = min(values)
    highest = best + far * max(median(values) - best, 1e-9)
    kept = [value for value in values if value <= highest]
    if paper.is_measured and paper.loss <= highest:
        kept.append(paper.loss)
    span = (max(kept) - min(kept)) or 0.02 * abs(best) or 1.0
    return min(kept) - 0.07 * span, max(kept) + 0.18 * span


def mark(record: Record, trial: Trial, low: float, high: float) -> tuple[str, float]:
    """The kind of mark a trial gets in a panel of this range, and how high; none ("") while it is
    under way."""
    edge = high - 0.05 * (high - low)
    if trial.outcome == COMPLETE:
        value = record.value(trial)
        return (COMPLETE, value) if value <= high - 0.1 * (high - low) else ("far", edge)
    if trial.outcome == "pruned" and trial.stopped_at is not None:
        return "pruned", min(trial.stopped_at[1], edge)
    return (trial.outcome, edge) if trial.outcome in ("diverged", "failed") else ("", edge)


def format_axis(axes: Axes, axis: Axis, vertical: bool = False) -> None:
    """An axis as it was searched, with plain numbers."""
    along = axes.yaxis if vertical else axes.xaxis
    unit = ", steps as run" if axis.key in IN_STEPS else ""
    (axes.set_ylabel if vertical else axes.set_xlabel)(f"{shown_key(axis.key)}{unit}")
    if axis.log:
        (axes.set_yscale if vertical else axes.set_xscale)("log")
        along.set_minor_formatter(NullFormatter())
        if axis.high / axis.low < 100:
            first = math.floor(math.log10(axis.low))
            ticks = [m * 10.0 ** (first + k) for k in range(3) for m in (1, 2, 5)]
            along.set_major_locator(FixedLocator([t for t in ticks if axis.low <= t <= axis.high]))
        along.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if axis.choices:
        along.set_major_locator(FixedLocator(_ticks(axis)))
        along.set_minor_locator(NullLocator())
        along.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _ticks(axis: Axis) -> list[float]:
    """The choices of an axis that have room for a label; both ends among them."""
    shown = [axis.low]
    for value in axis.choices:
        assert isinstance(value, int | float)
        room = axis.place(value) - axis.place(shown[-1]), 1 - axis.place(value)
        if min(room) >= CROWDED:
            shown.append(float(value))
    return [*shown, axis.high]


def say(axes: Axes, text: str) -> None:
    """A sentence in place of what a panel would show."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    wrapped = textwrap.fill(text, 36)
    axes.text(0.5, 0.5, wrapped, transform=axes.transAxes, ha="center", va="center", color=GREY)
