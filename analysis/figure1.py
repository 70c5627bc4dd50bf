"""Figure 1: perplexity over training of the optimizers of Table 1, from the same runs (Section 1).

One panel a size, one curve an optimizer: the mean over seeds at every evaluation, in its 95 % band.
The paper draws these curves and prints none of their values, so only its claim stands beside ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from analysis import document, drawing, learning_rates, paper_table1
from analysis.cell_table import Key
from analysis.claims import Answer, every_pair
from analysis.curves import curves_of
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import rows_of
from analysis.method_table import MODELS, footer
from analysis.paper_table1 import TABLE1
from analysis.stats import Cell
from spam_lab.config.schema import ScaleConfig

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

LOOKS: dict[str, dict[str, Any]] = {
    "adam_mini": {"color": "#56B4E9", "ls": (0, (1, 1.2)), "marker": "v"},
    "adam": {"color": drawing.INK, "ls": drawing.DASHES, "marker": "s"},
    "adam_value_clip": {"color": "#009E73", "ls": (0, (5, 1, 1, 1)), "marker": "^"},
    "adam_norm_clip": {"color": "#CC79A7", "ls": (0, (3, 1, 1, 1, 1, 1)), "marker": "P"},
    "adafactor": {"color": drawing.BLUE, "ls": "-", "marker": "o"},
    "spam": {"color": drawing.VERMILLION, "ls": "-", "marker": "D"},
}
"""Colour, line and mark of each optimizer: any one of them tells it from the others."""

TICKS = (10, 15, 20, 25, 30, 40, 50, 70, 100, 120, 150, 200, 250, 300, 400, 500, 700, 1000)
"""Perplexities to label, as far as they lie on the axis."""

STATEMENT = "SPAM is best at half and at the end"


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `figure1`."""
    cells = TABLE1.cells(frame)
    curves = curves_of(frame, cells)
    steps = {str(r.labels["panel"]): r.config.schedule.steps for r in requests}
    answers = {model: _answer(model, steps[model], cells, curves) for model in steps}
    return Exhibit(
        name="figure1",
        title=f"Figure 1 at scale {scale.name}: training curves of the optimizers of Table 1",
        summary=(
            "Mean validation perplexity at every evaluation, in its 95 % t band over seeds. The "
            f"paper draws this figure without printing its values ({paper_table1.FIGURE1_SOURCE}), "
            "so its claim is what is compared; the values at the end stand in Table 1."
        ),
        figure=_figure(curves, steps, answers, document.setting(requests)),
        table=_table(frame, curves),
        answers=tuple(answers.values()),
        sections=(
            _values(curves),
            document.claims(list(answers.values())),
            learning_rates.section(requests, TABLE1.cell_name),
            document.what_was_run(requests, frame),
            document.limits(
                scale,
                list(answers.values()),
                "A curve of a few evaluations shows the order of optimizers, not bumps.",
            ),
            document.runs_behind(cells, frame),
        ),
    )


def half_of(curve: Mapping[int, Cell], steps: int) -> int:
    """The step of the evaluation nearest to half of training, the earlier of two; 0 without any."""
    return min(curve, key=lambda step: (abs(2 * step - steps), step), default=0)


def _answer(
    model: str,
    steps: int,
    cells: Mapping[Key, Cell],
    curves: Mapping[Key, Mapping[int, Cell]],
) -> Answer:
    spam: Key = (model, "spam")
    half = half_of(curves.get(spam, {}), steps)

    def at(value: str, step: int) -> Cell:
        whole = TABLE1.cell(cells, model, value)
        return curves.get((model, value), {}).get(step, Cell(whole.name, whole.cell_id))

    pairs = [
        (at("spam", step), at(value, step))
        for step in dict.fromkeys((half, steps))
        for value in TABLE1.methods
        if value != "spam"
    ]
    return every_pair(
        paper_table1.spam_leads(model), pairs, [at(value, steps) for value in TABLE1.methods]
    )


def _figure(
    curves: Mapping[Key, Mapping[int, Cell]],
    steps: Mapping[str, int],
    answers: Mapping[str, Answer],
    setting: str,
) -> Figure:
    rows = math.ceil(len(steps) / 2)
    with drawing.style():
        figure = drawing.new_figure(7.4, 1.0 + 2.9 * rows, f"Training curves, {setting}")
        grid = list(figure.subplots(rows, 2, squeeze=False).flat)
        for axes, model in zip(grid, steps, strict=False):
            drawing.frame(
                axes, [], title=MODELS[model], axis="step", footer=footer(STATEMENT, answers[model])
            )
            _draw(axes, model, curves, steps[model])
        for axes in grid[len(steps) :]:
            axes.set_axis_off()
        figure.legend(
            handles=[
                Line2D([], [], label=TABLE1.methods[value].name, lw=1.3, ms=4.5, **look)
                for value, look in LOOKS.items()
            ],
            loc="outside lower center",
            ncols=3,
        )
    return figure


def _draw(axes: Axes, model: str, curves: Mapping[Key, Mapping[int, Cell]], steps: int) -> None:
    drawn = False
    for value, look in LOOKS.items():
        points = [
            (step, cell.perplexity)
            for step, cell in curves.get((model, value), {}).items()
            if cell.perplexity is not None
        ]
        if not points:
            continue
        drawn = True
        drawing.draw_curve(axes, points, look, least=lambda mean: mean / 2)
    if not drawn:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no results yet", transform=axes.transAxes, ha="center")
        return
    axes.set_xlim(0, 1.04 * steps)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=2))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in TICKS if low < tick < high])


def _table(frame: pd.DataFrame, curves: Mapping[Key, Mapping[int, Cell]]) -> pd.DataFrame:
    run_ids: dict[Key, list[str]] = {}
    for row in rows_of(frame):
        run_ids.setdefault((row["panel"], row["value"]), []).append(row["run_id"])
    rows = []
    for (model, value), curve in curves.items():
        for step, cell in curve.items():
            estimate = cell.perplexity
            rows.append(
                {
                    "panel": model,
                    "value": value,
                    "step": step,
                    "n": len(cell.losses),
                    "diverged": len(cell.diverged),
                    "incomplete": len(cell.incomplete),
                    "perplexity_mean": estimate.mean if estimate else math.nan,
                    "perplexity_half_width_95": estimate.half_width if estimate else math.nan,
                    "losses": " ".join(
                        f"{seed}:{cell.losses[seed]:.6f}" for seed in sorted(cell.losses)
                    ),
                    "run_ids": " ".join(run_ids[model, value]),
                }
            )
    return pd.DataFrame(rows)


def _values(curves: Mapping[Key, Mapping[int, Cell]]) -> Section:
    """Mean perplexities at each evaluation, or at about ten of them."""
    blocks = []
    for model in dict.fromkeys(panel for panel, _ in curves):
        steps = sorted({step for (panel, _), c in curves.items() if panel == model for step in c})
        stride = max(1, math.ceil(len(steps) / 10))
        shown = sorted({*steps[::stride], *steps[-1:]})
        rows = []
        for (panel, value), curve in curves.items():
            if panel == model:
                means = [
                    f"{cell.perplexity.mean:.2f}"
                    if (cell := curve.get(step)) and cell.perplexity
                    else "–"
                    for step in shown
                ]
                rows.append((TABLE1.methods[str(value)].name, *means))
        headers = ["optimizer", *(f"step {step}" for step in shown)]
        blocks.append(f"**{MODELS[model]}**\n\n{document.table(headers, rows)}")
    return Section("Mean perplexity along the curves", "\n\n".join(blocks))
