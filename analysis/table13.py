"""Table 13: clipping spikes beside nullifying them in fine-tuning (paper, Appendix K).

Both rules at both densities on WinoGrande and COPA, ours beside the paper's. How many entries each
rule acted on stands beside: rules that act on nothing cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from analysis import document, drawing, finetuned
from analysis.accuracies import accuracy
from analysis.cell_table import Key, note
from analysis.claims import Answer
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import cells as cells_of
from analysis.method_table import footer
from analysis.paper_finetuning import (
    CLIPPING_IS_BETTER,
    TABLE13,
    TABLE13_METHODS,
    TABLE13_SOURCE,
    TABLE13_TASKS,
)
from analysis.stats import Cell
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

DENSITIES = ("100", "0.25")
TICKS = ("clip\n100 %", "clip\n0.25 %", "nullify\n100 %", "nullify\n0.25 %")


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table13`."""
    cells = cells_of(frame, cell_name, finetuned.ERROR)
    answer = finetuned.answer(
        CLIPPING_IS_BETTER,
        [
            (_cell(cells, task, f"clip_{density}"), _cell(cells, task, f"nullify_{density}"))
            for task in TABLE13_TASKS
            for density in DENSITIES
        ],
    )
    return Exhibit(
        name="table13",
        title=f"Table 13 at scale {scale.name}: clipping spikes beside nullifying them, fine-tuned",
        summary=(
            "Test accuracy in percent, mean with 95 % t interval over seeds, beside the paper's "
            f"({TABLE13_SOURCE}), which has no intervals. Compare the differences between the "
            "rules, not the accuracies, wherever this scale is not `paper`."
        ),
        figure=_figure(cells, answer, document.setting(requests)),
        table=_table(frame, cells),
        answers=(answer,),
        sections=(
            _values(frame, cells),
            document.claims((answer,)),
            _acted(frame, cells),
            finetuned.what_was_run(requests, frame, TABLE13_METHODS),
            finetuned.limits(scale, requests, (answer,), "OPT-1.3B, whole test sets"),
            document.runs_behind(cells, frame),
        ),
    )


def cell_name(panel: str, value: Value) -> str:
    """What a cell is called in sentences."""
    return f"{TABLE13_METHODS[str(value)]} ({TABLE13_TASKS[panel]})"


def _cell(cells: Mapping[Key, Cell], panel: str, value: str) -> Cell:
    return cells.get((panel, value), Cell(cell_name(panel, value)))


def _values(frame: pd.DataFrame, cells: Mapping[Key, Cell]) -> Section:
    rows = []
    for (panel, value), cell in cells.items():
        rule, density = str(value).split("_")
        printed = TABLE13[panel, str(value)]
        other = cells.get((panel, f"nullify_{density}"))
        is_clip = rule == "clip"
        gap = float(printed) - float(TABLE13[panel, f"nullify_{density}"])
        rows.append(
            (
                TABLE13_TASKS[panel],
                TABLE13_METHODS[str(value)],
                len(cell.losses),
                finetuned.shown(accuracy(cell)),
                finetuned.gain(cell, other) if is_clip else "–",
                f"{finetuned.mean_of(frame, (panel, value), 'validation/loss'):.3f}",
                printed,
                f"{gap:+.1f}" if is_clip else "–",
                note(cell),
            )
        )
    headers = ["task", "method", "n", "accuracy, ours", "over nullifying, ours [95 %]"]
    headers += ["loss of the right choice", "accuracy, paper", "over nullifying, paper", "remarks"]
    guess = ", ".join(
        f"{TABLE13_TASKS[task]} {100 * finetuned.CHANCE[task]:.0f} %" for task in TABLE13_TASKS
    )
    text = f"Guessing answers {guess} rightly. Losses are in nats a token."
    return Section("Accuracy, %", f"{text}\n\n{document.table(headers, rows)}")


def _acted(frame: pd.DataFrame, cells: Mapping[Key, Cell]) -> Section:
    rows = []
    for panel, value in cells:
        runs = finetuned.runs_of(frame, (panel, value))
        known = [row["clipped_total"] for row in runs if row["state"] == "done"]
        rows.append(
            (
                TABLE13_TASKS[panel],
                TABLE13_METHODS[str(value)],
                f"{sum(known) / len(known):,.0f}" if known else "–",
                ", ".join(row["run_id"] for row in runs),
            )
        )
    headers = ["task", "rule", "entries acted on in a run, mean", "run_ids"]
    text = (
        "Both rules call the same entries spikes, those with g² > θv. Clipping keeps sign(g)·√(θv) "
        "of such an entry, nullifying keeps nothing."
    )
    return Section("What the rules did", f"{text}\n\n{document.table(headers, rows)}")


def _table(frame: pd.DataFrame, cells: Mapping[Key, Cell]) -> pd.DataFrame:
    rows = []
    for key, cell in cells.items():
        found = finetuned.columns(frame, key, cell)
        printed = float(TABLE13[key[0], str(key[1])])
        rows.append({**found, "paper_accuracy": printed})
    return pd.DataFrame(rows)


def _figure(cells: Mapping[Key, Cell], answer: Answer, setting: str) -> Figure:
    tasks = list(dict.fromkeys(panel for panel, _ in cells))
    with drawing.style():
        figure = drawing.new_figure(
            7.4, 1.0 + 2.5 * len(tasks), f"Rules for spikes in fine-tuning, {setting}"
        )
        grid = figure.subplots(len(tasks), 2, squeeze=False)
        for (ours, published), task in zip(grid, tasks, strict=True):
            found = [cells.get((task, method)) for method in TABLE13_METHODS]
            drawing.frame(
                ours,
                TICKS,
                title=f"Ours, {TABLE13_TASKS[task]}",
                axis="",
                footer=footer("clipping is better", answer),
            )
            finetuned.draw_ours(ours, found, TICKS, own=0)
            if any(cell is not None and cell.losses for cell in found):
                finetuned.draw_chance(ours, finetuned.CHANCE[task])
            drawing.frame(
                published,
                TICKS,
                title=f"Published, {TABLE13_TASKS[task]}",
                axis="",
                footer=f"OPT-1.3B, as printed, without intervals ({TABLE13_SOURCE})",
            )
            published.set_ylabel("accuracy, %")
            values = [float(TABLE13[task, method]) for method in TABLE13_METHODS]
            drawing.draw_values(published, values, special=0, joined=False)
        drawing.add_legend(figure, line=False)
    return figure
