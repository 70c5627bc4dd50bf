"""How the mechanism study looks: two forests of effects, the controls, and key cells over rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import drawing
from analysis.cell_table import Key
from analysis.drawing import BLUE, DASHES, GREY, INK, VERMILLION
from analysis.factorial import Effect
from analysis.stats import Cell, Estimate, Verdict

MARKS = {"adam": "s", "adam_fp32_states": "^", "adam_sawtooth": "v", "spam": "D"}
COLOURS = {"adam": INK, "adam_fp32_states": GREY, "adam_sawtooth": BLUE, "spam": VERMILLION}
DECIDED, OPEN = "decided after Holm's correction", "undecided"


def figure(
    found: Mapping[str, Sequence[Effect]],
    families: Mapping[str, str],
    cells: Mapping[Key, Cell],
    controls: Mapping[str, str],
    rates: Mapping[str, float],
    setting: str,
) -> Figure:
    """Above, the effects of each factorial on one axis; below, controls and learning rates."""
    with drawing.style():
        made = drawing.new_figure(7.4, 7.4, f"Which part of SPAM does its work, {setting}")
        grid = made.add_gridspec(2, 2, height_ratios=(1.25, 1))
        left = made.add_subplot(grid[0, 0])
        right = made.add_subplot(grid[0, 1], sharex=left, sharey=left)
        for axes, (family, words) in zip((left, right), families.items(), strict=True):
            _forest(axes, found[family], words)
        right.tick_params(labelleft=False)
        _controls(made.add_subplot(grid[1, 0]), cells, controls)
        _rates(made.add_subplot(grid[1, 1]), cells, controls, rates)
        handles = [
            Line2D([], [], color=BLUE, marker="o", lw=1.2, ms=5, label=DECIDED),
            Line2D([], [], color=GREY, marker="o", mfc="white", lw=1.2, ms=5, label=OPEN),
        ]
        made.legend(handles=handles, loc="outside lower center", ncols=2)
    return made


def _forest(axes: Axes, effects: Sequence[Effect], title: str) -> None:
    short = {"float32 moments": "float32", "running correction": "running"}
    names = [" × ".join(short.get(one, one) for one in effect.factors) for effect in effects]
    axes.set_title(title, pad=7)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelsize=7)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_xlabel("effect on the loss (left: lowers it)")
    for place, effect in enumerate(effects):
        difference = effect.comparison.difference
        if difference is None:
            axes.text(0, place, "no test", ha="center", va="center", fontsize=7, color=GREY)
            continue
        decided = effect.comparison.verdict is not Verdict.UNDECIDED
        colour = BLUE if decided else GREY
        axes.plot([difference.low, difference.high], [place, place], color=colour, lw=1.3)
        axes.plot(
            difference.mean, place, "o", ms=5, color=colour, mfc=colour if decided else "white"
        )


def _controls(axes: Axes, cells: Mapping[Key, Cell], controls: Mapping[str, str]) -> None:
    """Mean perplexity of each control with its interval and its seeds."""
    axes.set_title("Controls", pad=7)
    axes.set_yticks(range(len(controls)), list(controls.values()))
    axes.set_ylim(len(controls) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelsize=7)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("validation perplexity")
    for place, name in enumerate(controls):
        cell = cells.get(("controls", name))
        estimate = None if cell is None else cell.perplexity
        colour = VERMILLION if name == "spam" else BLUE
        if cell is None or estimate is None:
            word = "diverged" if cell is not None and cell.diverged else "no result"
            axes.annotate(
                word, (0.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=7
            )
            continue
        axes.plot(
            cell.perplexities, [place + 0.25] * len(cell.perplexities), "o", ms=2.4, color=GREY
        )
        axes.errorbar(
            estimate.mean,
            place,
            xerr=_half(estimate),
            fmt="D" if name == "spam" else "o",
            ms=5,
            color=colour,
            mfc="white" if cell.incomplete else colour,
            capsize=2.5,
        )


def _rates(
    axes: Axes, cells: Mapping[Key, Cell], controls: Mapping[str, str], rates: Mapping[str, float]
) -> None:
    """Mean perplexity of the key cells over multiples of the learning rate."""
    axes.set_title("At other learning rates", pad=7)
    axes.set_xlabel("multiple of the learning rate")
    axes.set_ylabel("validation perplexity")
    axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates.values()])
    axes.set_xlim(-0.4, len(rates) - 0.6)
    for index, (name, mark) in enumerate(MARKS.items()):
        shift = 0.06 * (index - 1.5)
        known = [
            (place, estimate)
            for place, panel in enumerate(rates)
            if (cell := cells.get((panel, name))) and (estimate := cell.perplexity)
        ]
        axes.errorbar(
            [place + shift for place, _ in known],
            [estimate.mean for _, estimate in known],
            yerr=[_half(estimate) or 0.0 for _, estimate in known],
            marker=mark,
            ms=5,
            lw=1,
            capsize=2,
            color=COLOURS[name],
            ls=DASHES if name == "adam" else "-",
            label=controls[name],
        )
    axes.legend(fontsize=7)


def _half(estimate: Estimate) -> float | None:
    return estimate.half_width if estimate.has_interval else None
