"""Table 10: perplexity over the threshold θ beside Adam, for each architecture (Appendix I).

Ours and the paper's values stand in columns of their own and in panels of their own: they are from
different scales, and never share an axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import document, drawing, paper
from analysis.cell_table import Key, cell_table, note, shown_perplexity
from analysis.claims import Answer, best_within, every_pair
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import cells as cells_of
from analysis.frames import rows_of
from analysis.stats import Cell, Verdict
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

ADAM = "adam"
BEST = range(1000, 5001)
PAPER_SETTING = 5000


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table10`."""
    cells = cells_of(frame, cell_name)
    table = cell_table(frame, requests, cells, as_run)
    table.insert(
        4,
        "paper_perplexity",
        [float(paper.TABLE10[panel][_paper_key(value)]) for panel, value in cells],
    )
    architectures = list(dict.fromkeys(panel for panel, _ in cells))
    answers = tuple(answer for name in architectures for answer in _answers(name, cells))
    return Exhibit(
        name="table10",
        title=f"Table 10 at scale {scale.name}: the threshold θ, beside Adam",
        summary=(
            "Mean validation perplexity with 95 % t interval over seeds, beside the values that "
            f"the paper publishes ({paper.TABLE10_SOURCE}). The two are from different scales "
            "wherever this one is not `paper`: compare their order, not their size."
        ),
        figure=_figure(architectures, cells, answers, document.setting(requests)),
        table=table,
        answers=answers,
        sections=(
            _values_section(cells),
            document.claims(answers),
            _settings_section(requests),
            document.what_was_run(requests, frame),
            document.limits(
                scale,
                answers,
                _clipping(table),
            ),
            document.runs_behind(cells, frame),
        ),
    )


def cell_name(panel: str, value: Value) -> str:
    """What a cell is called in sentences."""
    name = "Adam" if value == ADAM else f"θ = {value}"
    return f"{name} ({paper.TABLE10_NAMES[panel]})"


def as_run(request: Request) -> str:
    """θ as run, from the run's own config; it is the same at every scale."""
    if request.labels["value"] == ADAM:
        return request.config.optimizer.name
    theta: float = request.config.optimizer.theta  # type: ignore[attr-defined]
    return f"{theta:g}"


def _clipping(table: pd.DataFrame) -> str:
    """How much the thresholds act here: a θ that clips nothing cannot matter."""
    parts = [
        f"{row['clipped_entries_mean']:,.0f} at θ = {row['value']} ({row['model']})"
        for row in rows_of(table)
        if row["value"] != ADAM and not pd.isna(row["clipped_entries_mean"])
    ]
    return f"Entries clipped in a run, on average: {', '.join(parts)}." if parts else ""


def _answers(architecture: str, cells: Mapping[Key, Cell]) -> list[Answer]:
    def cell(value: Value) -> Cell:
        return cells.get((architecture, value), Cell(cell_name(architecture, value)))

    thresholds = [cell(value) for value in paper.TABLE10_THETA]
    inside = [cell(value) for value in paper.TABLE10_THETA if value in BEST]
    outside = [cell(value) for value in paper.TABLE10_THETA if value not in BEST]
    pairs = [(threshold, cell(ADAM)) for threshold in thresholds]
    return [
        every_pair(paper.table10_beats_adam(architecture), pairs, thresholds),
        best_within(paper.table10_best_theta(architecture), inside, outside),
    ]


def _figure(
    architectures: Sequence[str],
    cells: Mapping[Key, Cell],
    answers: Sequence[Answer],
    setting: str,
) -> Figure:
    with drawing.style():
        title = f"The threshold θ beside Adam, {setting}, and as published"
        figure = drawing.new_figure(7.4, 0.9 + 2.9 * len(architectures), title)
        grid = figure.subplots(len(architectures), 2, squeeze=False)
        for row, name in zip(grid, architectures, strict=True):
            own = [answer for answer in answers if f".{name}." in answer.claim.key]
            points = [
                drawing.Point(
                    cells[name, value],
                    str(value),
                    is_paper_setting=value == PAPER_SETTING,
                )
                for panel, value in cells
                if panel == name and value != ADAM
            ]
            drawing.frame(
                row[0],
                [point.label for point in points],
                title=f"Ours, {paper.TABLE10_NAMES[name]}",
                axis="θ",
                footer=_footer(own),
            )
            drawing.draw_panel(row[0], points, cells.get((name, ADAM)))
            _draw_published(row[1], name)
        drawing.add_legend(figure)
    return figure


def _footer(answers: Sequence[Answer]) -> str:
    beats, best = answers
    held = sum(part.verdict is Verdict.HOLDS for part in beats.parts)
    return (
        f"“better than Adam at every θ”: {beats.verdict} ({held} of {len(beats.parts)})\n"
        f"“best θ in 1000 to 5000”: {best.verdict}"
    )


def _draw_published(axes: Axes, architecture: str) -> None:
    """The paper's single values, in a panel and on an axis of their own; they have no interval."""
    published = paper.TABLE10[architecture]
    drawing.frame(
        axes,
        [str(theta) for theta in paper.TABLE10_THETA],
        title=f"Published, {paper.TABLE10_NAMES[architecture]}",
        axis="θ",
        footer=f"as printed, without intervals ({paper.TABLE10_SOURCE})",
    )
    drawing.draw_values(
        axes,
        [float(published[theta]) for theta in paper.TABLE10_THETA],
        special=paper.TABLE10_THETA.index(PAPER_SETTING),
        line=float(published[ADAM]),
    )


def _values_section(cells: Mapping[Key, Cell]) -> Section:
    headers = ["θ"]
    for name in paper.TABLE10:
        label = paper.TABLE10_NAMES[name]
        headers += [f"{label}, ours", "n", f"{label}, paper"]
    rows = []
    for value in (*paper.TABLE10_THETA, ADAM):
        row = ["Adam" if value == ADAM else str(value)]
        for name, published in paper.TABLE10.items():
            row += [*_ours(cells.get((name, value))), published[value]]
        rows.append(row)
    return Section("Values", document.table(headers, rows))


def _ours(cell: Cell | None) -> list[str]:
    if cell is None:
        return ["not run", "0"]
    remark = note(cell)
    shown = shown_perplexity(cell)
    return [f"{shown} ({remark})" if remark else shown, str(len(cell.losses))]


def _settings_section(requests: Sequence[Request]) -> Section:
    rows = []
    for request in requests:
        optimizer = request.config.optimizer
        if request.labels["value"] != PAPER_SETTING or request.seed != requests[0].seed:
            continue
        rows.append(
            (
                paper.TABLE10_NAMES[str(request.labels["panel"])],
                f"500 → {getattr(optimizer, 'delta_t', '–')}",
                f"150 → {getattr(optimizer, 'warmup_steps', '–')}",
                f"{optimizer.lr:g}",
                request.config.schedule.warmup_steps,
            )
        )
    return Section(
        "Settings that every θ shares",
        document.table(
            ["architecture", "ΔT, paper → run", "N, paper → run", "learning rate", "LR warm-up"],
            rows,
        )
        + "\n\nθ itself is not scaled. The paper gives learning rates for LLaMA alone: Pythia-70M "
        "and OPT-125M have those of LLaMA-60M and LLaMA-130M, SPAM and Adam alike, untuned.",
    )


def _paper_key(value: Value) -> int | str:
    if isinstance(value, int | str):
        return value
    raise ValueError(f"table10 has no published value for θ = {value}")
