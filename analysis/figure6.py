"""Figure 6: selections of sparse SPAM under what is reset and what is kept, LLaMA-60M (Appendix F).

The paper's three panels; the two that keep gradients stand in both readings of that. All panels are
of the same model and length; those of a reading share their axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import document, drawing
from analysis.cell_table import Key, cell_table, note, shown_perplexity, shown_value
from analysis.claims import Answer, every_pair
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import cells as cells_of
from analysis.method_table import footer
from analysis.paper_figure6 import READINGS, SELECTIONS, SOURCE, random_is_best, reset_is_better
from analysis.stats import Cell
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

TICKS = ("random", "weight\nmagnitude", "gradient\nmagnitude")
DROPPED = "reset_drop"


@dataclass(frozen=True)
class Regime:
    """One panel: where it stands in the paper, and what happens there."""

    place: str
    words: str
    title: str


REGIMES = {
    "reset_keep_sgd": Regime("left", "reset all, keep g (SGD)", "Left: reset all, keep g (SGD)"),
    "overlap_keep_sgd": Regime(
        "middle", "keep overlap, keep g (SGD)", "Middle: keep overlap (SGD)"
    ),
    DROPPED: Regime("right", "reset all, drop g", "Right: reset all, drop g"),
    "reset_keep_sign": Regime("left", "reset all, keep g (sign)", "Left: reset all, keep g (sign)"),
    "overlap_keep_sign": Regime(
        "middle", "keep overlap, keep g (sign)", "Middle: keep overlap (sign)"
    ),
}
"""The panels in the order in which they are drawn."""


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `figure6`."""
    cells = cells_of(frame, cell_name)
    answers = [answer for reading in READINGS for answer in _answers(reading, cells)]
    return Exhibit(
        name="figure6",
        title=f"Figure 6 at scale {scale.name}: which entries have moments, and what is kept",
        summary=(
            "Mean validation perplexity with 95 % t interval over seeds. The paper draws this "
            f"figure without printing its values ({SOURCE}), so its claims are what is compared. "
            "It does not say what an entry without moments does with a gradient that is kept: "
            "both readings are shown."
        ),
        figure=_figure(cells, answers, document.setting(requests)),
        table=cell_table(frame, requests, cells, as_run),
        answers=tuple(answers),
        sections=(
            _values(cells),
            document.claims(answers),
            _readings(requests),
            document.what_was_run(requests, frame),
            document.limits(scale, answers, _resets(requests)),
            document.runs_behind(cells, frame),
        ),
    )


def cell_name(panel: str, value: Value) -> str:
    """What a cell is called in sentences."""
    return f"{shown_value(value)} selection ({REGIMES[panel].words})"


def as_run(request: Request) -> str:
    """The panel's two options, from the run's own config."""
    optimizer: Any = request.config.optimizer
    return f"reselected={optimizer.reselected} unselected={optimizer.unselected}"


def _answers(reading: str, cells: Mapping[Key, Cell]) -> list[Answer]:
    def cell(panel: str, value: str) -> Cell:
        return cells.get((panel, value), Cell(cell_name(panel, value)))

    left, middle = f"reset_keep_{reading}", f"overlap_keep_{reading}"
    panels = (left, middle, DROPPED)
    best, *others = SELECTIONS
    return [
        every_pair(
            random_is_best(reading),
            [(cell(panel, best), cell(panel, other)) for panel in panels for other in others],
            [cell(panel, value) for panel in panels for value in SELECTIONS],
        ),
        every_pair(
            reset_is_better(reading),
            [(cell(left, value), cell(middle, value)) for value in SELECTIONS],
            [cell(panel, value) for panel in (left, middle) for value in SELECTIONS],
        ),
    ]


def _figure(cells: Mapping[Key, Cell], answers: Sequence[Answer], setting: str) -> Figure:
    with drawing.style():
        figure = drawing.new_figure(7.4, 6.2, f"Selections of sparse SPAM, LLaMA-60M, {setting}")
        *panels, words = figure.subplots(2, 3).flat
        points = {name: _points(name, cells) for name in REGIMES}
        names = list(REGIMES)
        for row in (names[:3], names[3:]):  # the panels of a row are compared with each other
            of_row = [point for name in row for point in points[name]]
            for name in row:
                axes = panels[names.index(name)]
                drawing.frame(axes, TICKS, title="", axis="", footer="")
                axes.set_title(REGIMES[name].title, fontsize=8.5)
                drawing.draw_panel(axes, points[name], row=of_row)
                axes.tick_params(axis="x", labelsize=7)
        _write_answers(words, answers)
        drawing.add_legend(figure, line=False)
    return figure


def _points(name: str, cells: Mapping[Key, Cell]) -> list[drawing.Point]:
    """One panel's points, in the order of SELECTIONS."""
    return [
        drawing.Point(
            cells.get((name, value), Cell(cell_name(name, value))),
            tick,
            is_paper_setting=(name, value) == (DROPPED, SELECTIONS[0]),
            joined=False,
        )
        for value, tick in zip(SELECTIONS, TICKS, strict=True)
    ]


def _write_answers(axes: Axes, answers: Sequence[Answer]) -> None:
    """The verdicts, in the place that no panel takes."""
    axes.set_axis_off()
    lines = []
    for reading, (best, reset) in zip(
        READINGS, zip(answers[::2], answers[1::2], strict=True), strict=True
    ):
        lines += [
            f"kept gradients as {reading}:",
            footer("random is best", best),
            footer("reset beats overlap", reset),
            "",
        ]
    axes.text(0, 0.95, "\n".join(lines), va="top", fontsize=7.5, color=drawing.GREY, style="italic")


def _values(cells: Mapping[Key, Cell]) -> Section:
    rows = []
    for panel, regime in REGIMES.items():
        shown = []
        for value in SELECTIONS:
            cell = cells.get((panel, value))
            remark = note(cell) if cell else "not run"
            text = shown_perplexity(cell) if cell else "–"
            shown.append(f"{text} ({remark})" if remark else text)
        rows.append((f"{regime.place}: {regime.words}", *shown))
    headers = ["panel", *(shown_value(value) for value in SELECTIONS)]
    return Section("Values", document.table(headers, rows))


def _readings(requests: Sequence[Request]) -> Section:
    optimizer: Any = requests[0].config.optimizer
    return Section(
        "How the panels were read",
        f"Density {optimizer.density:g}, ΔT = {optimizer.delta_t}, N = {optimizer.warmup_steps} as "
        "run. “Reset all” sets every moment to zero at a reset (`reselected=reset`); “keep "
        "overlap” leaves the moments of entries that are chosen again (`reselected=keep`). “Drop "
        "gradients” freezes entries without moments, as the public code does "
        "(`unselected=freeze`). “Keep gradients” is defined nowhere: either w ← w − α·g "
        "(`unselected=sgd`), or w ← w − α·sign(g) (`unselected=sign`), as in FRUGAL. The first "
        "moves a weight by α·|g|, the second by α, about as far as Adam does. α is the learning "
        "rate of sparse SPAM in all panels, untuned for any of them.",
    )


def _resets(requests: Sequence[Request]) -> str:
    config = requests[0].config
    interval = getattr(config.optimizer, "delta_t", config.schedule.steps)
    return f"A run has {config.schedule.steps // interval} resets here."
