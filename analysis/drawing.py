"""How exhibits look: one panel style for values over seeds, the same on every page.

A panel shows each seed as a small dot, the mean with its 95 % interval, the paper's own setting as
a diamond, and Adam as a dashed line in its band. Colours are told apart by the colour-blind and,
being backed by shape and line style, in grey print. A cell far above the others, or one that
diverged, is an arrow with its number at the top edge, so that it does not squash the rest; an
interval that goes on beyond the panel ends in a triangle at its edge. Figures are drawn without
global state, from fixed fonts, so that equal numbers give equal bytes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.stats import Cell, Estimate

BLUE, VERMILLION, GREY, INK = "#0072B2", "#D55E00", "#6B6B6B", "#222222"
DASHES = (0, (4, 2))
FAR = 1.5
"""A cell whose mean is this many times the panel's median is drawn as an arrow."""

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": "#8A8A8A",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 0,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "path",
    "svg.hashsalt": "spam_lab",
    "figure.dpi": 100,
    "savefig.dpi": 250,
}


@dataclass(frozen=True)
class Point:
    """One cell on a panel's axis: its runs, its tick label, whether it is the paper's setting."""

    cell: Cell
    label: str
    is_paper_setting: bool = False
    joined: bool = True
    """Whether a line leads on from the point before: not where an axis is not one of numbers."""


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Everything drawn inside looks the same, whatever the user's own matplotlib settings."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure, in inches, without pyplot and its global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(h_pad=0.09, w_pad=0.08)  # type: ignore[union-attr,call-arg]
    figure.suptitle(title, x=0.012, ha="left", fontsize=10.5)
    return figure


def frame(axes: Axes, labels: Sequence[str], *, title: str, axis: str, footer: str) -> None:
    """An empty panel with its ticks and words; `footer` is the small line beneath the axis."""
    axes.set_title(title, pad=7)
    axes.set_ylabel("validation perplexity")
    axes.set_xticks(range(len(labels)), list(labels))
    axes.set_xlim(-0.55, len(labels) - 0.45)
    label_with_footer(axes, axis, footer)


def label_with_footer(axes: Axes, axis: str, footer: str) -> None:
    """The name of the horizontal axis, and a small line beneath it."""
    axes.set_xlabel(axis)
    axes.annotate(
        footer,
        (0.5, 0),
        (0, -6),
        xycoords=axes.xaxis.label,
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=7.5,
        color=GREY,
        style="italic",
    )


def draw_panel(
    axes: Axes,
    points: Sequence[Point],
    line: Cell | None = None,
    *,
    row: Sequence[Point] = (),
) -> None:
    """Draw cells into a framed panel; `line` is the cell drawn as Adam's dashed line.

    `row` are the points of all panels that share the axis, these among them, where several do.
    """
    limit = _far_limit(row or points, line)
    low, high = _limits(row or points, line, limit)
    if low >= high:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no results yet", transform=axes.transAxes, ha="center", color=GREY)
        return
    axes.set_ylim(low, high)
    _draw_line(axes, line, high)
    _join(axes, points, limit)
    for place, point in enumerate(points):
        _draw_point(axes, place, point, limit, high - low)


def draw_curve(
    axes: Axes,
    points: Sequence[tuple[int, Estimate]],
    look: Mapping[str, Any],
    least: Callable[[float], float] = lambda mean: -math.inf,
) -> None:
    """Means over steps, joined, with a band for their intervals that ends at `least` of a mean."""
    where = [step for step, _ in points]
    means = [estimate.mean for _, estimate in points]
    halves = [e.half_width if e.has_interval else 0.0 for _, e in points]
    axes.plot(where, means, lw=1.3, ms=3.6, **look)
    axes.fill_between(
        where,
        [max(mean - half, least(mean)) for mean, half in zip(means, halves, strict=True)],
        [mean + half for mean, half in zip(means, halves, strict=True)],
        color=look["color"],
        alpha=0.12,
        lw=0,
    )


def draw_values(
    axes: Axes,
    values: Sequence[float],
    special: int,
    line: float | None = None,
    *,
    joined: bool = True,
) -> None:
    """Draw published values, which have no seeds; `special` is the place of the paper's setting."""
    if joined:
        axes.plot(range(len(values)), values, color=BLUE, lw=1, alpha=0.45, zorder=1.5)
    for place, value in enumerate(values):
        marker, colour = ("D", VERMILLION) if place == special else ("o", BLUE)
        axes.plot(place, value, marker, ms=5.5, color=colour, zorder=3)
    if line is not None:
        axes.axhline(line, color=INK, ls=DASHES, lw=1, zorder=1)
    axes.margins(y=0.12)


def add_legend(figure: Figure, *, line: bool = True, setting: bool = True) -> None:
    """What the marks mean, once for the figure; `line` where some panel has Adam's, `setting` where
    some point is the paper's."""
    bar, marker = {"lw": 1.2, "markersize": 5.5}, {"lw": 0, "markersize": 2.8}
    entries: list[tuple[str, dict[str, Any]]] = [
        ("mean, 95 % interval", {"color": BLUE, "marker": "o", **bar}),
        ("the paper's setting", {"color": VERMILLION, "marker": "D", **bar}),
        ("one seed", {"color": GREY, "marker": "o", **marker}),
    ]
    if not setting:
        del entries[1]
    if line:
        entries.append(("Adam, 95 % band", {"color": INK, "ls": DASHES, "lw": 1}))
    figure.legend(
        handles=[Line2D([], [], label=label, **look) for label, look in entries],
        loc="outside lower center",
        ncols=len(entries),
        columnspacing=1.6,
        handletextpad=0.5,
    )


def _mean(cell: Cell) -> float | None:
    return cell.perplexity.mean if cell.perplexity else None


def _far_limit(points: Sequence[Point], line: Cell | None) -> float:
    means = [mean for point in points if (mean := _mean(point.cell)) is not None]
    if not means and line is not None and line.perplexity:
        means = [line.perplexity.mean]  # the line alone has a result
    return FAR * median(means) if means else float("inf")


def _ends(estimate: Estimate) -> tuple[float, float]:
    half = estimate.half_width if estimate.has_interval else 0.0
    return estimate.mean - half, estimate.mean + half


def _limits(points: Sequence[Point], line: Cell | None, limit: float) -> tuple[float, float]:
    """The range of perplexities that holds all that is not far off, with a margin."""
    values: list[float] = []
    for cell in [point.cell for point in points] + ([line] if line else []):
        values += [value for value in cell.perplexities if value <= limit]
        if cell.perplexity and cell.perplexity.mean <= limit:
            low, high = _ends(cell.perplexity)
            values += [max(low, limit / FAR**2), min(high, limit)]
    if not values:
        return 0.0, 0.0
    margin = 0.09 * (max(values) - min(values)) or 0.02 * max(values)
    return min(values) - margin, max(values) + 1.6 * margin


def _draw_line(axes: Axes, line: Cell | None, top: float) -> None:
    estimate = line.perplexity if line else None
    if estimate is None:
        return
    if estimate.mean > top:
        axes.text(
            1.0,
            1.02,
            f"Adam {estimate.mean:.1f} ↑",
            transform=axes.transAxes,
            ha="right",
            va="bottom",
            fontsize=8,
            color=INK,
        )
        return
    if estimate.has_interval:
        axes.axhspan(*_ends(estimate), color=INK, alpha=0.08, lw=0, zorder=0.5)
    axes.axhline(estimate.mean, color=INK, ls=DASHES, lw=1, zorder=1)


def _join(axes: Axes, points: Sequence[Point], limit: float) -> None:
    """A thin line between neighbours that are both shown in place."""
    for place in range(1, len(points)):
        pair = [_mean(points[place - 1].cell), _mean(points[place].cell)]
        known = [mean for mean in pair if mean is not None and mean <= limit]
        if points[place].joined and len(known) == 2:
            axes.plot([place - 1, place], known, color=BLUE, lw=1, alpha=0.45, zorder=1.5)


def _draw_point(axes: Axes, place: int, point: Point, limit: float, height: float) -> None:
    cell = point.cell
    colour = VERMILLION if point.is_paper_setting else BLUE
    estimate = cell.perplexity
    shown = [value for value in cell.perplexities if value <= limit]
    if shown:
        draw_seeds(axes, place + 0.17, shown)
    if cell.diverged:
        arrow(axes, place, f"{len(cell.diverged)} of {cell.seeds}\ndiverged", colour, 6.5)
    elif estimate is None:
        _mark(axes, place, axes.get_ylim()[0] + 0.04 * height, "no result", colour)
    elif estimate.mean > limit:
        arrow(axes, place, f"{estimate.mean:.0f}", colour)
    else:
        marker = "D" if point.is_paper_setting else "o"
        draw_mean(axes, place, estimate, colour=colour, marker=marker, whole=not cell.incomplete)
        _mark_cuts(axes, place, _ends(estimate), colour)
    if estimate is not None and (cell.incomplete or estimate.n == 1):
        mark = f"n={estimate.n}" + (f" of {cell.seeds}" if cell.incomplete else "")
        _mark(axes, place, axes.get_ylim()[0] + 0.04 * height, mark, colour)


def draw_mean(
    axes: Axes,
    place: float,
    estimate: Estimate,
    *,
    colour: str,
    marker: str = "o",
    whole: bool = True,
) -> None:
    """The mean and its interval, if two seeds or more give one.

    Args:
        axes: where.
        place: on the horizontal axis.
        estimate: the mean, in units of the vertical axis.
        colour: of mark and interval.
        marker: matplotlib's name of the mark.
        whole: whether no seed is missing; else the mark is hollow.
    """
    axes.errorbar(
        place,
        estimate.mean,
        estimate.half_width if estimate.has_interval else None,
        fmt=marker,
        ms=5.5,
        color=colour,
        mfc=colour if whole else "white",
        elinewidth=1.2,
        capsize=2.5,
        capthick=1.2,
        zorder=3,
    )


def draw_seeds(axes: Axes, place: float, values: Sequence[float]) -> None:
    """One small dot a seed."""
    axes.plot([place] * len(values), values, "o", ms=2.6, color=GREY, mew=0, zorder=2)


def _mark_cuts(axes: Axes, place: int, ends: tuple[float, float], colour: str) -> None:
    """A triangle, its tip at the panel's edge, where an interval goes on beyond it."""
    bottom, top = axes.get_ylim()
    for edge, is_cut, marker in ((bottom, ends[0] < bottom, 7), (top, ends[1] > top, 6)):
        if is_cut:
            axes.plot(place, edge, marker=marker, ms=7, mew=0, color=colour, zorder=3)


def arrow(axes: Axes, place: float, text: str, colour: str, size: float = 8) -> None:
    """An arrow to what lies above the panel."""
    axes.annotate(
        text,
        (place, 0.995),
        (place, 0.86),
        xycoords=axes.get_xaxis_transform(),
        textcoords=axes.get_xaxis_transform(),
        ha="center",
        va="top",
        fontsize=size,
        color=colour,
        bbox={"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 0.8},
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.2, "shrinkA": 1, "shrinkB": 0},
    )


def _mark(axes: Axes, place: int, height: float, text: str, colour: str) -> None:
    axes.text(place, height, text, ha="center", va="bottom", fontsize=7, color=colour)
