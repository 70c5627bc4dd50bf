"""The figure of the exhibit `reinforcement`: learning curves by environment above, what all
environments say together below. Each environment has an axis of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import drawing
from analysis.aggregates import Aggregate, Together
from analysis.cell_table import Key
from analysis.curves import Curve
from analysis.stats import mean_interval

LOOKS: dict[str, dict[str, Any]] = {
    "spam": {"color": drawing.VERMILLION, "ls": "-", "marker": "D"},
    "adam": {"color": drawing.INK, "ls": drawing.DASHES, "marker": "s"},
}
"""As in Figure 1."""


def draw(
    title: str,
    environments: Mapping[str, str],
    methods: Mapping[str, str],
    curves: Mapping[Key, Curve],
    both: Together | None,
    verdict: str,
) -> Figure:
    """The figure.

    Args:
        title: of the whole.
        environments: words by panel, in order.
        methods: words by value; the first is the one that claims to be better.
        curves: the returns of every evaluation, by transitions.
        both: what all environments say; None where they cannot be taken together.
        verdict: the claim's, in one small line.
    """
    with drawing.style():
        figure = drawing.new_figure(7.4, 5.0, title)
        grid = figure.add_gridspec(2, 1, height_ratios=(1.15, 1))
        above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
        panels = above.subplots(1, len(environments))
        for axes, (panel, name) in zip(panels, environments.items(), strict=True):
            _draw_curves(axes, name, {m: curves.get((panel, m), {}) for m in methods})
        panels[0].set_ylabel("return")
        left, right = below.subplots(1, 2)
        _draw_means(left, methods, both, verdict)
        _draw_improvements(right, list(environments.values()), list(methods.values()), both)
        handles = [
            Line2D([], [], label=name, ms=4, lw=1.3, **LOOKS[method])
            for method, name in methods.items()
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


def _draw_curves(axes: Axes, name: str, curves: Mapping[str, Curve]) -> None:
    """One environment: means over seeds, in their 95 % bands."""
    axes.set_title(name, pad=7)
    axes.set_xlabel("transitions")
    for method, curve in curves.items():
        steps = [step for step, cell in curve.items() if cell.losses and not cell.diverged]
        estimates = [mean_interval(list(curve[step].losses.values())) for step in steps]
        means = [estimate.mean for estimate in estimates]
        look = LOOKS[method]
        axes.plot(steps, means, ms=3, lw=1.3, zorder=3, **look)
        known = [e.half_width if e.has_interval else 0.0 for e in estimates]
        low = [mean - half for mean, half in zip(means, known, strict=True)]
        high = [mean + half for mean, half in zip(means, known, strict=True)]
        axes.fill_between(steps, low, high, color=look["color"], alpha=0.15, lw=0)
    if not any(curves.values()):
        _nothing(axes, "no results yet")
        return
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
    )
    axes.set_xlim(left=0)


def _draw_means(
    axes: Axes, methods: Mapping[str, str], both: Together | None, verdict: str
) -> None:
    axes.set_title("Interquartile mean, all environments", pad=7)
    drawing.label_with_footer(axes, "score: return ÷ CleanRL's, after its longer runs", verdict)
    if both is None:
        _nothing(axes, "incomplete or diverged")
        return
    for row, (mean, method) in enumerate(zip(both.means, methods, strict=True)):
        look = LOOKS[method]
        _bar(axes, row, mean, look["color"], look["marker"])
    _rows(axes, list(methods.values()))


def _draw_improvements(
    axes: Axes, environments: Sequence[str], methods: Sequence[str], both: Together | None
) -> None:
    axes.set_title("Probability of improvement", pad=7)
    first, second = methods
    drawing.label_with_footer(
        axes, f"how often a run of {first} beats one of {second}", "dotted: as often as not"
    )
    if both is None:
        _nothing(axes, "incomplete or diverged")
        return
    axes.axvline(0.5, color=drawing.GREY, lw=1, ls=(0, (1, 1.5)))
    for row, improvement in enumerate((both.improvement, *both.on)):
        colour, marker = (drawing.BLUE, "o") if row else (drawing.VERMILLION, "D")
        _bar(axes, row, improvement, colour, marker)
    _rows(axes, ["all", *environments])
    axes.set_xlim(-0.03, 1.03)


def _bar(axes: Axes, row: int, aggregate: Aggregate, colour: str, marker: str) -> None:
    """A value with its interval, on a row."""
    reach = [[aggregate.value - aggregate.low], [aggregate.high - aggregate.value]]
    axes.errorbar(
        aggregate.value,
        row,
        xerr=reach,
        fmt=marker,
        ms=5.5,
        color=colour,
        elinewidth=1.4,
        capsize=2.5,
        capthick=1.2,
    )


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")


def _nothing(axes: Axes, words: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color=drawing.GREY)
