"""How Figure 7 is drawn: test loss over training at each severity, and what the end of it says.

It promises that a mean is drawn with its interval and its seeds, and that a cell without a result
leaves a gap rather than a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import drawing, severity
from analysis.cell_table import Key
from analysis.claims import Answer
from analysis.severity import ADAM, SPAM
from analysis.stats import Cell, mean_interval

LOOKS: dict[str, dict[str, Any]] = {
    ADAM: {"color": drawing.INK, "ls": drawing.DASHES, "marker": "s"},
    SPAM: {"color": drawing.VERMILLION, "ls": "-", "marker": "D"},
}
ACROSS = 4
"""Panels of curves in a row."""


def draw(
    cells: Mapping[Key, Cell],
    curves: Mapping[Key, Mapping[int, Cell]],
    severities: Sequence[float],
    answers: Sequence[Answer],
    setting: str,
) -> Figure:
    """The figure; `answers` are those of `severity.grows` and `severity.ahead`."""
    rows = -(-len(severities) // ACROSS)
    with drawing.style():
        title = f"Forecasting under anomalies: {setting}"
        figure = drawing.new_figure(7.4, 1.2 + 2.0 * rows + 2.7, title)
        halves: Any = figure.subfigures(2, 1, height_ratios=(2.0 * rows + 0.3, 2.7))
        upper, lower = halves
        grid = list(upper.subplots(rows, ACROSS, sharey=True, squeeze=False).flat)
        for place, (axes, level) in enumerate(zip(grid, severities, strict=False)):
            _curves(axes, level, curves)
            axes.set_ylabel("test loss (MSE)" if place % ACROSS == 0 else "")
        for axes in grid[len(severities) :]:
            axes.set_axis_off()
        final, advantage = lower.subplots(1, 2)
        grows, ahead = answers
        drawing.frame(
            final,
            [f"{level:g}" for level in severities],
            title="At the end of training",
            axis="severity of anomalies",
            footer=f"“SPAM is better at every severity above 0”: {ahead.verdict}",
        )
        final.set_ylabel("test loss (MSE)")
        _final(final, cells, severities)
        drawing.frame(
            advantage,
            [f"{level:g}" for level in severities],
            title="Below 0, SPAM is better",
            axis="severity of anomalies",
            footer=f"“the more severe, the larger”: {grows.verdict}",
        )
        advantage.set_ylabel("loss of SPAM − loss of Adam")
        _advantage(advantage, cells, severities)
        bar: dict[str, Any] = {"lw": 1.3, "ms": 4.5}
        figure.legend(
            handles=[
                Line2D([], [], label="Adam", **bar, **LOOKS[ADAM]),
                Line2D([], [], label="SPAM", **bar, **LOOKS[SPAM]),
                Line2D([], [], label="SPAM − Adam, 95 % interval", **bar, **_DIFFERENCE),
                Line2D([], [], label="one seed", color=drawing.GREY, marker="o", lw=0, ms=2.8),
            ],
            loc="outside lower center",
            ncols=4,
        )
    return figure


_DIFFERENCE: dict[str, Any] = {"color": drawing.BLUE, "marker": "o"}


def _curves(axes: Axes, level: float, curves: Mapping[Key, Mapping[int, Cell]]) -> None:
    axes.set_title("no anomalies" if level == 0 else f"severity {level:g}", pad=7)
    axes.set_xlabel("step")
    for name, look in LOOKS.items():
        curve = curves.get((name, level), {})
        points = {s: mean_interval(list(c.losses.values())) for s, c in curve.items() if c.losses}
        if not points:
            continue
        means = [estimate.mean for estimate in points.values()]
        halves = [e.half_width if e.has_interval else 0.0 for e in points.values()]
        axes.plot(list(points), means, lw=1.3, ms=2.6, **look)
        axes.fill_between(
            list(points),
            [mean - half for mean, half in zip(means, halves, strict=True)],
            [mean + half for mean, half in zip(means, halves, strict=True)],
            color=look["color"],
            alpha=0.12,
            lw=0,
        )
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))


def _final(axes: Axes, cells: Mapping[Key, Cell], severities: Sequence[float]) -> None:
    for name, shift in ((ADAM, -0.12), (SPAM, 0.12)):
        colour, marker = LOOKS[name]["color"], LOOKS[name]["marker"]
        for place, level in enumerate(severities):
            cell = cells.get((name, level), Cell(""))
            losses = list(cell.losses.values())
            drawing.draw_seeds(axes, place + 2 * shift, losses)
            if losses and not cell.diverged:
                drawing.draw_mean(
                    axes, place + shift, mean_interval(losses), colour=colour, marker=marker
                )
            else:
                _gap(axes, place + shift, f"{len(cell.diverged)} diverged" if cell.diverged else "")


def _advantage(axes: Axes, cells: Mapping[Key, Cell], severities: Sequence[float]) -> None:
    axes.axhline(0, color=drawing.INK, lw=0.9, zorder=1)
    for place, level in enumerate(severities):
        spam, adam = severity.pair(cells, level)
        common = sorted(spam.losses.keys() & adam.losses.keys())
        differences = [spam.losses[seed] - adam.losses[seed] for seed in common]
        drawing.draw_seeds(axes, place + 0.14, differences)
        if differences and not spam.diverged | adam.diverged:
            drawing.draw_mean(axes, place, mean_interval(differences), colour=drawing.BLUE)
        else:
            _gap(axes, place, "")


def _gap(axes: Axes, place: float, reason: str) -> None:
    axes.annotate(
        reason or "no result",
        (place, 0.04),
        xycoords=axes.get_xaxis_transform(),
        ha="center",
        fontsize=7,
        color=drawing.GREY,
        rotation=90,
    )
