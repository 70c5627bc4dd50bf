"""How the exhibit on few bits looks: perplexity over precision, a line for each method, in panels.

Methods are told apart by colour, mark and place. A cell that diverged, or lies far above the rest
of its panel, is an arrow with its word at the top edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import drawing
from analysis.drawing import BLUE, DASHES, FAR, GREY, INK, VERMILLION
from analysis.stats import Cell

LOOKS = {
    "adam": (INK, "s", DASHES),
    "spam": (VERMILLION, "D", "-"),
    "stable_spam": (BLUE, "o", "-"),
}
SPREAD = 0.2
"""How far the methods stand from each other at one precision, in units of the axis."""

ROOM = 0.25
"""The share that a panel grows by at the top where there are arrows."""

Panel = Mapping[str, Mapping[str, Cell]]
"""By method and by what its place on the axis is called: the runs. All methods have all places."""


def figure(title: str, panels: Mapping[str, Panel], names: Mapping[str, str]) -> Figure:
    """A panel for each title in `panels`; `names` are the methods'."""
    with drawing.style():
        made = drawing.new_figure(7.4, 3.3, title)
        for axes, (words, panel) in zip(
            made.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            ticks = list(dict.fromkeys(tick for row in panel.values() for tick in row))
            drawing.frame(axes, ticks, title=words, axis="", footer="")
            _draw(axes, panel)
            if axes is not made.axes[0]:
                axes.set_ylabel("")
        look = {"lw": 1.2, "ms": 5}
        handles = [
            Line2D([], [], color=LOOKS[m][0], marker=LOOKS[m][1], ls=LOOKS[m][2], label=n, **look)  # type: ignore[arg-type]
            for m, n in names.items()
        ]
        handles.append(Line2D([], [], color=GREY, marker="o", lw=0, ms=2.8, label="one seed"))
        made.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            title="mean with 95 % interval",
            title_fontsize=8,
        )
    return made


def _draw(axes: Axes, panel: Panel) -> None:
    means = [c.perplexity.mean for row in panel.values() for c in row.values() if c.perplexity]
    if not means:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no results yet", transform=axes.transAxes, ha="center", color=GREY)
        return
    limit = FAR * median(means)
    for index, (method, row) in enumerate(panel.items()):
        colour, mark, line = LOOKS[method]
        shift = SPREAD * (index - 1)
        places = list(enumerate(row.values()))
        known = [(place, c, e) for place, c in places if (e := c.perplexity) and e.mean <= limit]
        for place, cell, estimate in known:
            seeds = [value for value in cell.perplexities if value <= limit]
            drawing.draw_seeds(axes, place + shift + 0.1, seeds)
            whole = not cell.incomplete
            drawing.draw_mean(
                axes, place + shift, estimate, colour=colour, marker=mark, whole=whole
            )
        axes.plot(
            [place + shift for place, _, _ in known],
            [estimate.mean for _, _, estimate in known],
            color=colour,
            ls=line,
            lw=1,
            alpha=0.6,
        )
        for place, cell in places:
            if cell.diverged:
                drawing.arrow(
                    axes, place + shift, f"{len(cell.diverged)} of {cell.seeds}\ndiverged", colour
                )
            elif cell.perplexity is None:
                axes.annotate(
                    "no result",
                    (place + shift, 0.02),
                    xycoords=axes.get_xaxis_transform(),
                    ha="center",
                    va="bottom",
                    rotation=90,
                    fontsize=6.5,
                    color=colour,
                )
            elif cell.perplexity.mean > limit:
                drawing.arrow(axes, place + shift, f"{cell.perplexity.mean:.0f}", colour, 6.5)
    every = [cell for row in panel.values() for cell in row.values()]
    if any(cell.diverged or (cell.perplexity and cell.perplexity.mean > limit) for cell in every):
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + ROOM * (high - low))
