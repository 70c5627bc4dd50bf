"""The panel that shows how the loss depends on what was searched.

A surface over the two most important numbers, with everything else as in the best trial; curves
over one number, one for each category of the most important choice; dots where there are only
categories. Trials are always drawn as they came out: the fit is beside them, not instead of them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, MaxNLocator

from analysis import surface as surfaces
from analysis.drawing import BLUE, GREY, INK
from analysis.importance import Importance
from analysis.paper_setting import PaperSetting
from analysis.surface import Floats, Surface
from analysis.trials import COMPLETE, Axis, Record
from analysis.tuning_marks import (
    MARKS,
    OBJECTIVES,
    PAPER,
    format_axis,
    in_lines,
    limits,
    mark,
    say,
    shown_key,
)
from spam_lab.orchestrate.grid import Value

FAR = 6.0
"""Where a curve is drawn, its high end belongs to it: only what is this far is left out."""
SIDE = 60
"""Points of a fitted surface or curve along one axis."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#222222", "#999933", "#882255")
SHAPES = "os^vDPX<"
STAR: dict[str, Any] = {"marker": "*", "color": BLUE, "ms": 13, "mec": "white", "mew": 1.0}


@dataclass(frozen=True)
class Findings:
    """All that the figure shows of a study."""

    record: Record
    paper: PaperSetting
    importances: Sequence[Importance]
    surface: Surface | None
    used: set[str] = field(default_factory=set)
    """Kinds of marks that were drawn, for the legend."""


def draw(axes: Axes, findings: Findings) -> None:
    """The panel that fits what was searched."""
    record = findings.record
    if not record.complete:
        say(axes, "No trial has a result yet.")
        return
    numbers, categories = by_importance(findings)
    if len(numbers) > 1:
        _draw_surface(axes, findings, numbers[0], numbers[1])
    elif numbers:
        _draw_curves(axes, findings, numbers[0], categories[0] if categories else None)
    else:
        _draw_categories(axes, findings, categories[0])


def by_importance(findings: Findings) -> tuple[list[Axis], list[Axis]]:
    """Axes of numbers and of categories that have no condition, the most important first."""
    rank = {one.key: place for place, one in enumerate(findings.importances)}
    known = [a for a in findings.record.axes if not a.is_conditional] or findings.record.axes
    axes = sorted(known, key=lambda axis: rank.get(axis.key, 0))
    return [a for a in axes if a.is_number], [a for a in axes if not a.is_number]


def _grid(axis: Axis) -> list[float]:
    if axis.log:
        values = np.geomspace(axis.low, axis.high, SIDE)
    else:
        values = np.linspace(axis.low, axis.high, SIDE)
    return [float(v) for v in values]


def _draw_surface(axes: Axes, findings: Findings, one: Axis, other: Axis) -> None:
    record, surface, paper = findings.record, findings.surface, findings.paper
    # The axis that was searched first is the horizontal one, whichever matters more.
    across, up = sorted((one, other), key=record.axes.index)
    best = record.ranked()[0]
    rest = [a for a in record.axes if a.key not in (one.key, other.key)]
    axes.set_title("Fitted loss" + (", rest as in the best trial" if rest else ""), pad=7)
    format_axis(axes, across)
    format_axis(axes, up, vertical=True)
    axes.grid(False)
    low, high = limits(record, paper)
    norm = Normalize(low, high)
    if surface is not None:
        xs, ys = _grid(across), _grid(up)
        points = [{**best.point, across.key: x, up.key: y} for y in ys for x in xs]
        heights: Floats = np.clip(surface.mean(points).reshape(SIDE, SIDE), low, high)
        levels = np.linspace(low, high, 13)
        drawn = axes.contourf(xs, ys, heights, levels=levels, cmap="cividis_r", extend="max")
        bar = axes.figure.colorbar(drawn, ax=axes, pad=0.02, aspect=26)
        bar.locator = MaxNLocator(6)
        bar.formatter = FormatStrFormatter("%.4g")
        bar.update_ticks()
        bar.set_label(OBJECTIVES[record.objectives[record.target]])
        bar.outline.set_visible(False)
    else:
        axes.set_title("Trials", pad=7)
        note = textwrap.fill(surfaces.why_none(record), 40)
        low_text: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "color": GREY}
        axes.text(0.5, 0.04, note, va="bottom", **low_text)
    for trial in record.trials:
        if across.key not in trial.point or up.key not in trial.point:
            continue
        place = (trial.point[across.key], trial.point[up.key])
        kind, _ = mark(record, trial, low, high)
        if trial.outcome == COMPLETE:
            colour = _shade(norm, record.value(trial))
            look: dict[str, Any] = {
                "marker": "o",
                "ms": 4.6,
                "mfc": colour,
                "mec": "white",
                "mew": 0.6,
            }
            axes.plot(*place, ls="", clip_on=False, zorder=3, **look)
        elif kind:
            bold = {**MARKS[kind], "mew": 2.6, "color": "white"}
            axes.plot(*place, ls="", clip_on=False, zorder=2.9, **bold)
            axes.plot(*place, ls="", clip_on=False, zorder=3, **MARKS[kind])
            findings.used.add(kind)
    axes.plot(best.point[across.key], best.point[up.key], ls="", zorder=5, clip_on=False, **STAR)
    findings.used.add("best")
    if across.key in paper.point and up.key in paper.point:
        place = (paper.point[across.key], paper.point[up.key])
        axes.plot(*place, ls="", zorder=6, clip_on=False, **PAPER)
        findings.used.add("paper")
    ends = [(axis.low, axis.high) for axis in (across, up)]
    axes.set_xlim(*ends[0])
    axes.set_ylim(*ends[1])


def _shade(norm: Normalize, value: float) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["cividis_r"](min(max(float(norm(value)), 0.0), 1.0))
    return red, green, blue, alpha


def _draw_curves(axes: Axes, findings: Findings, axis: Axis, groups: Axis | None) -> None:
    record, paper, surface = findings.record, findings.paper, findings.surface
    low, high = limits(record, paper, FAR)
    axes.set_ylim(low, high)
    format_axis(axes, axis)
    axes.set_ylabel(OBJECTIVES[record.objectives[record.target]])
    split = f", by {shown_key(groups.key)}" if groups else ""
    fitted = "Trials and fit" if surface is not None else "Trials"
    axes.set_title(f"{fitted}{split}", pad=7)
    values: Sequence[Value] = groups.choices if groups else (None,)
    best, xs = record.ranked()[0], _grid(axis)
    for i, value in enumerate(values):
        colour = COLOURS[i % len(COLOURS)] if groups else BLUE
        if surface is not None:
            chosen: Mapping[str, Value] = {groups.key: value} if groups else {}
            mean, half = surface.band([{**best.point, **chosen, axis.key: x} for x in xs])
            axes.plot(xs, mean, color=colour, lw=1.2, alpha=0.8)
            if groups is None:
                axes.fill_between(xs, mean - half, mean + half, color=colour, alpha=0.15, lw=0)
        for trial in record.trials:
            if axis.key not in trial.point or (groups and trial.point.get(groups.key) != value):
                continue
            kind, y = mark(record, trial, low, high)
            look = MARKS.get(kind, {})
            if kind == COMPLETE and groups:
                look = {"marker": SHAPES[i % len(SHAPES)], "color": colour, "ms": 4}
            elif kind:
                findings.used.add(kind)
            if kind:
                axes.plot(trial.point[axis.key], y, ls="", clip_on=False, **look)
    if axis.key in paper.point and paper.is_measured and paper.loss < high:
        axes.plot(paper.point[axis.key], paper.loss, ls="", zorder=6, clip_on=False, **PAPER)
        findings.used.add("paper")
    elif axis.key in paper.point and surface is not None:
        there = surface.of_a_run(paper.point)
        look = {**PAPER, "mfc": "white", "mec": PAPER["color"], "elinewidth": 1.2}
        axes.errorbar(paper.point[axis.key], there.mean, there.half_width, **look)
        findings.used.add("paper predicted")
    if groups:
        handles = [
            Line2D([], [], color=COLOURS[i % 8], marker=SHAPES[i % 8], ms=4, lw=1.2, label=str(v))
            for i, v in enumerate(values)
        ]
        axes.legend(handles=handles, loc="best", fontsize=7, handlelength=1.6, labelspacing=0.25)


def _draw_categories(axes: Axes, findings: Findings, axis: Axis) -> None:
    record, paper = findings.record, findings.paper
    low, high = limits(record, paper)
    axes.set_ylim(low, high)
    axes.set_title(f"Trials by {shown_key(axis.key)}", pad=7)
    axes.set_ylabel(OBJECTIVES[record.objectives[record.target]])
    axes.set_xticks(range(len(axis.choices)), [in_lines(str(value)) for value in axis.choices])
    axes.tick_params(axis="x", rotation=90 if len(axis.choices) > 4 else 0)
    axes.set_xlim(-0.6, len(axis.choices) - 0.4)
    for trial in record.trials:
        kind, y = mark(record, trial, low, high)
        if kind and axis.key in trial.point:
            # Beside each other in the order of the trials, so that equal ones are seen.
            x = axis.choices.index(trial.point[axis.key]) + (trial.number % 7 - 3) * 0.05
            axes.plot(x, y, ls="", clip_on=False, **MARKS[kind])
            findings.used.add(kind)
    for place, value in enumerate(axis.choices):
        own = [record.value(t) for t in record.complete if t.point.get(axis.key) == value]
        if own and min(own) < high:
            axes.plot([place - 0.3, place + 0.3], [min(own)] * 2, color=INK, lw=1.4)
    if axis.key in paper.point and paper.is_measured and paper.loss < high:
        x = axis.choices.index(paper.point[axis.key])
        axes.plot(x, paper.loss, ls="", zorder=6, clip_on=False, **PAPER)
        findings.used.add("paper")
    axes.annotate(
        "line: the best of its category",
        (0.99, 0.01),
        xycoords="axes fraction",
        ha="right",
        va="bottom",
        fontsize=7,
        color=GREY,
    )
