"""What becomes of a spike: SPAM's own clipping beside another rule (Tables 11 and 12).

The two tables differ in the other rule alone. How many entries each rule acted on stands beside the
perplexities: rules that act on nothing cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from analysis import document
from analysis.cell_table import Key
from analysis.claims import Claim
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import rows_of
from analysis.method_table import MODELS, PublishedTable, footer
from analysis.stats import Cell
from spam_lab.config.schema import ScaleConfig

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request


@dataclass(frozen=True)
class Question:
    """One of the two tables: its other rule, its words and its claim on one model."""

    name: str
    title: str
    published: PublishedTable
    other: str
    statement: str
    claim: Callable[[str], Claim]
    reading: str


def build(
    question: Question, frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig
) -> Exhibit:
    """The exhibit of a question from the runs of its sweep."""
    published = question.published
    cells = published.cells(frame)
    models = list(dict.fromkeys(panel for panel, _ in cells))
    answers = [
        published.better(question.claim(model), [("clip", question.other)], model, cells)
        for model in models
    ]
    table = published.table(frame, requests, cells)
    return Exhibit(
        name=question.name,
        title=f"{question.name.capitalize().replace('e', 'e ', 1)} at scale {scale.name}: "
        f"{question.title}",
        summary=(
            "Mean validation perplexity with 95 % t interval over seeds, beside the values that "
            f"the paper publishes ({published.source}). Compare the ratio of the two rules, not "
            "the perplexities, wherever this scale is not `paper`."
        ),
        figure=published.figure(
            f"{question.title[0].upper()}{question.title[1:]}, {document.setting(requests)}",
            cells,
            {
                model: footer(question.statement, answer)
                for model, answer in zip(models, answers, strict=True)
            },
        ),
        table=table,
        answers=tuple(answers),
        sections=(
            published.values(cells, requests),
            document.claims(answers),
            _acted(published, cells, table, question.reading),
            document.what_was_run(requests, frame),
            document.limits(
                scale,
                answers,
                "Rules for rare events differ only where there are such events: see how many "
                "entries each acted on.",
            ),
            document.runs_behind(cells, frame),
        ),
    )


def _acted(
    published: PublishedTable, cells: Mapping[Key, Cell], table: pd.DataFrame, reading: str
) -> Section:
    rows = [
        (
            MODELS[panel],
            published.methods[str(value)].name,
            "–" if pd.isna(row["clipped_entries_mean"]) else f"{row['clipped_entries_mean']:,.0f}",
            row["run_ids"].replace(" ", ", "),
        )
        for (panel, value), row in zip(cells, rows_of(table), strict=True)
    ]
    headers = ["model", "rule", "entries acted on in a run, mean", "run_ids"]
    return Section("What the rules did", f"{reading}\n\n{document.table(headers, rows)}")
