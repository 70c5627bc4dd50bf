"""The figure of Table 9: accuracy over training, ours with its band on the left, the paper's right.

Each model has a row. Accuracies of different images have an axis each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from analysis import drawing, paper_table9
from analysis.accuracies import Curves, accuracy
from analysis.claims import Answer
from analysis.method_table import footer
from analysis.paper_table9 import ACCURACY, FRACTIONS, METHODS, MODELS

LOOKS: dict[str, dict[str, Any]] = {
    "adamw": {"color": drawing.INK, "ls": drawing.DASHES, "marker": "s"},
    "spam": {"color": drawing.VERMILLION, "ls": "-", "marker": "D"},
}


def figure(
    curves: Curves, steps: Mapping[str, int], answers: Sequence[Answer], setting: str
) -> Figure:
    """A row for each model of `steps`, which says how long its runs are."""
    with drawing.style():
        drawn = drawing.new_figure(
            7.4, 1.0 + 2.7 * len(steps), f"SPAM and AdamW on images, {setting}"
        )
        grid = drawn.subplots(len(steps), 2, squeeze=False)
        for (ours, published), panel in zip(grid, steps, strict=True):
            drawing.frame(
                ours,
                [],
                title=f"Ours, {MODELS[panel]}",
                axis="step",
                footer=footer("fewer errors on both models", answers[0]),
            )
            _draw_ours(ours, panel, curves, steps[panel])
            drawing.frame(
                published,
                [],
                title=f"Published, {MODELS[panel]}",
                axis="share of the steps",
                footer=f"as printed, without intervals ({paper_table9.SOURCE})",
            )
            _draw_published(published, panel)
        drawn.legend(
            handles=[
                Line2D([], [], label=METHODS[method], lw=1.3, ms=4.5, **look)
                for method, look in LOOKS.items()
            ],
            loc="outside lower center",
            ncols=len(LOOKS),
        )
    return drawn


def _draw_ours(axes: Axes, panel: str, curves: Curves, steps: int) -> None:
    axes.set_ylabel("validation accuracy, %")
    drawn = False
    for method, look in LOOKS.items():
        points = [
            (step, estimate)
            for step, cell in curves.get((panel, method), {}).items()
            if (estimate := accuracy(cell)) is not None
        ]
        if not points:
            continue
        drawn = True
        drawing.draw_curve(axes, points, look)
    if not drawn:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no results yet", transform=axes.transAxes, ha="center")
        return
    axes.set_xlim(0, 1.04 * steps)
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(100.0, high))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=2))
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _draw_published(axes: Axes, panel: str) -> None:
    axes.set_ylabel("test accuracy, %")
    for method, look in LOOKS.items():
        known = [
            (100 * fraction, value)
            for fraction, value in zip(FRACTIONS, ACCURACY[panel, method], strict=True)
            if value is not None
        ]
        axes.plot(*zip(*known, strict=True), lw=1.3, ms=4.5, **look)
    axes.set_xlim(0, 104)
    axes.set_xticks(
        [100 * fraction for fraction in FRACTIONS], [f"{fraction:.0%}" for fraction in FRACTIONS]
    )
