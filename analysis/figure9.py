"""Figure 9: perplexity over SPAM's four choices, one panel each, with Adam's line (Appendix R).

Panel 1 is sparse SPAM on LLaMA-60M and has no Adam line; panels 2 to 4 are SPAM on LLaMA-130M, with
Adam on the same model. The paper prints none of the figure's values, so only its claims stand
beside ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import document, drawing, paper
from analysis.cell_table import Key, cell_table, note, shown_perplexity, shown_value
from analysis.claims import Answer, every_pair
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import cells as cells_of
from analysis.frames import rows_of
from analysis.stats import Cell, Verdict
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

ADAM: Key = ("adam", None)


@dataclass(frozen=True)
class Panel:
    """One panel: its symbol, its words, and the pairs of values that its claim compares."""

    key: str
    number: int
    title: str
    symbol: str
    statement: str
    pairs: tuple[tuple[Value, Value], ...]
    in_steps: bool = False
    has_line: bool = True


PANELS = (
    Panel(
        "selection",
        1,
        "Selection, sparse, LLaMA-60M",
        "selection strategy",
        "random beats both others",
        (("random", "weight_magnitude"), ("random", "gradient_magnitude")),
        has_line=False,
    ),
    Panel(
        "delta_t",
        2,
        "Reset interval ΔT, LLaMA-130M",
        "ΔT",
        "500 beats 2500 and 50",
        ((500, 2500), (500, 50)),
        in_steps=True,
    ),
    Panel(
        "theta",
        3,
        "Spike threshold θ, LLaMA-130M",
        "θ",
        "1000 beats 20000, none and 10",
        ((1000, 20000), (1000, None), (1000, 10)),
    ),
    Panel(
        "warmup_steps",
        4,
        "Warm-up N, LLaMA-130M",
        "N",
        "150 beats 0 and 50",
        ((150, 0), (150, 50)),
        in_steps=True,
    ),
)


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `figure9`."""
    cells = cells_of(frame, cell_name)
    table = cell_table(frame, requests, cells, as_run)
    answers = tuple(_answer(panel, cells) for panel in PANELS)
    mapped = dict(zip(cells, table["as_run"], strict=True))
    return Exhibit(
        name="figure9",
        title=f"Figure 9 at scale {scale.name}: SPAM's four choices",
        summary=(
            "Mean validation perplexity with 95 % t interval over seeds; every claim is tested on "
            "the loss, paired by seed. The paper draws this figure without printing its values "
            f"({paper.FIGURE9_SOURCE}), so its claims are what is compared."
        ),
        figure=_figure(cells, mapped, answers, document.setting(requests)),
        table=table,
        answers=answers,
        sections=(
            document.claims(answers),
            *(_panel_section(panel, cells, table) for panel in PANELS),
            _mapped_section(cells, mapped, requests),
            document.what_was_run(requests, frame),
            document.limits(
                scale,
                answers,
                _resets(requests),
            ),
            document.runs_behind(cells, frame),
        ),
    )


def cell_name(panel: str, value: Value) -> str:
    """What a cell is called in sentences."""
    if (panel, value) == ADAM:
        return "Adam"
    if panel == "selection":
        return f"{shown_value(value)} selection"
    if value is None:
        return "no clipping"
    symbol = next((known.symbol for known in PANELS if known.key == panel), panel)
    return f"{symbol} = {value}"


def as_run(request: Request) -> str:
    """The panel's value as this scale ran it, from the run's own config."""
    panel, optimizer = str(request.labels["panel"]), request.config.optimizer
    if panel == ADAM[0]:
        return optimizer.name
    if panel == "theta" and getattr(optimizer, "spike_rule", "") == "none":
        return "no clipping"
    value: Any = getattr(optimizer, panel)
    return f"{value:g}" if isinstance(value, float) else str(value)


def ordered(cells: Mapping[Key, Cell], panel: str) -> list[Value]:
    """A panel's values along its axis: numbers ascend, and no clipping is θ's upper end."""
    values = [value for key, value in cells if key == panel]
    if any(isinstance(value, str) for value in values):
        return values
    return sorted(values, key=lambda value: float("inf") if value is None else float(value))


def _resets(requests: Sequence[Request]) -> str:
    """How many resets fit into a run here and in the paper, at the paper's ΔT."""
    setting = paper.FIGURE9_SETTING["delta_t"]
    assert isinstance(setting, int)
    for request in requests:
        if request.labels["panel"] == "delta_t" and request.labels["value"] == setting:
            config = request.config
            here = config.schedule.steps // getattr(config.optimizer, "delta_t", setting)
            there = config.model.paper_steps // setting
            return f"At ΔT = {setting} a run has {here} resets here, {there} in the paper."
    return ""


def _answer(panel: Panel, cells: Mapping[Key, Cell]) -> Answer:
    def cell(value: Value) -> Cell:
        return cells.get((panel.key, value), Cell(cell_name(panel.key, value)))

    pairs = [(cell(better), cell(worse)) for better, worse in panel.pairs]
    among = [cell(value) for value in ordered(cells, panel.key)]
    return every_pair(paper.FIGURE9[panel.key], pairs, among)


def _figure(
    cells: Mapping[Key, Cell],
    mapped: Mapping[Key, str],
    answers: Sequence[Answer],
    setting: str,
) -> Figure:
    with drawing.style():
        figure = drawing.new_figure(7.4, 7.1, f"SPAM's four choices, {setting}")
        grid = figure.subplots(2, 2).flat
        for axes, panel, answer in zip(grid, PANELS, answers, strict=True):
            points = _points(panel, cells, mapped)
            axis = panel.symbol
            if _is_rescaled(panel, cells, mapped):
                axis = f"{panel.symbol}, paper steps (below: as run)"
            drawing.frame(
                axes,
                [point.label for point in points],
                title=f"({panel.number}) {panel.title}",
                axis=axis,
                footer=_footer(panel, answer),
            )
            drawing.draw_panel(axes, points, cells.get(ADAM) if panel.has_line else None)
        drawing.add_legend(figure)
    return figure


def _is_rescaled(panel: Panel, cells: Mapping[Key, Cell], mapped: Mapping[Key, str]) -> bool:
    """Whether this scale runs other steps than the paper prints."""
    values = ordered(cells, panel.key)
    return panel.in_steps and any(mapped[panel.key, value] != str(value) for value in values)


def _points(
    panel: Panel, cells: Mapping[Key, Cell], mapped: Mapping[Key, str]
) -> list[drawing.Point]:
    points = []
    rescaled = _is_rescaled(panel, cells, mapped)
    for value in ordered(cells, panel.key):
        key = (panel.key, value)
        label = shown_value(value).replace(" ", "\n")
        if rescaled:
            label += f"\n{mapped[key]}"
        points.append(
            drawing.Point(
                cells[key],
                label,
                is_paper_setting=value == paper.FIGURE9_SETTING[panel.key],
                joined=isinstance(value, int | float),
            )
        )
    return points


def _footer(panel: Panel, answer: Answer) -> str:
    held = sum(part.verdict is Verdict.HOLDS for part in answer.parts)
    failed = sum(part.verdict is Verdict.FAILS for part in answer.parts)
    counted = f"{held} of {len(answer.parts)}"
    if failed:
        counted += f", {failed} the other way"
    return f"“{panel.statement}”: {answer.verdict} ({counted})"


def _panel_section(panel: Panel, cells: Mapping[Key, Cell], table: pd.DataFrame) -> Section:
    rows = []
    by_key = dict(zip(cells, rows_of(table), strict=True))
    keys: list[Key] = [(panel.key, value) for value in ordered(cells, panel.key)]
    for key in keys + ([ADAM] if panel.has_line and ADAM in cells else []):
        cell, row = cells[key], by_key[key]
        clipped = row["clipped_entries_mean"]
        rows.append(
            (
                "Adam" if key == ADAM else row["value"],
                row["as_run"],
                len(cell.losses),
                shown_perplexity(cell),
                "–" if pd.isna(clipped) else f"{clipped:,.0f}",
                _remark(key, cell),
            )
        )
    body = document.table(
        [panel.symbol, "as run", "n", "perplexity", "entries clipped a run", "remarks"], rows
    )
    claim = paper.FIGURE9[panel.key]
    return Section(
        f"Panel {panel.number}: {panel.title}",
        f"The paper: {claim.source.split(': ', 1)[1]} (no values published).\n\n{body}",
    )


def _remark(key: Key, cell: Cell) -> str:
    panel, value = key
    remarks = [note(cell)]
    if key != ADAM and value == paper.FIGURE9_SETTING[panel]:
        remarks.insert(0, "the paper's setting")
    return "; ".join(remark for remark in remarks if remark)


def _mapped_section(
    cells: Mapping[Key, Cell], mapped: Mapping[Key, str], requests: Sequence[Request]
) -> Section:
    rows, same = [], []
    for panel in (panel for panel in PANELS if panel.in_steps):
        values = ordered(cells, panel.key)
        shown = [f"{value} → {mapped[panel.key, value]}" for value in values]
        rows.append((panel.symbol, ", ".join(shown)))
        if len({mapped[panel.key, value] for value in values}) < len(values):
            same.append(panel.symbol)
    warmups = sorted({request.config.schedule.warmup_steps for request in requests})
    rows.append(("learning-rate warm-up", ", ".join(map(str, warmups)) + " as run"))
    body = document.table(["interval", "paper steps → steps as run"], rows)
    if same:
        body += f"\n\nSome values of {', '.join(same)} coincide at this scale and share their runs."
    return Section("How intervals were mapped", body)
