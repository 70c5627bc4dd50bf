"""Table 1: perplexity of six optimizers on four sizes of LLaMA, beside the paper's (Section 4).

Which learning rates were used, and whether they were tuned, stands in a section of its own
(`learning_rates`); Figure 1 draws the curves of the same runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from analysis import document, learning_rates, paper_table1
from analysis.claims import Answer
from analysis.exhibit import Exhibit
from analysis.method_table import footer
from analysis.paper_table1 import TABLE1
from spam_lab.config.schema import ScaleConfig

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

CLIPPED = ("adam_value_clip", "adam_norm_clip")


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table1`."""
    cells = TABLE1.cells(frame)
    models = list(dict.fromkeys(panel for panel, _ in cells))
    others = [value for value in TABLE1.methods if value != "spam"]
    below = [value for value in others if value != "adafactor"]
    answers: list[Answer] = []
    footers = {}
    for model in models:
        own = [
            TABLE1.better(claim, pairs, model, cells)
            for claim, pairs in (
                (paper_table1.spam_is_best(model), [("spam", value) for value in others]),
                (paper_table1.clipping_helps(model), [(value, "adam") for value in CLIPPED]),
                (paper_table1.adafactor_is_next(model), [("adafactor", value) for value in below]),
            )
        ]
        statements = ("SPAM is best", "clipping helps Adam", "Adafactor is the best baseline")
        footers[model] = "\n".join(map(footer, statements, own))
        answers += own
    return Exhibit(
        name="table1",
        title=f"Table 1 at scale {scale.name}: optimizers on four sizes of LLaMA",
        summary=(
            "Mean validation perplexity with 95 % t interval over seeds, beside the values that "
            f"the paper publishes ({TABLE1.source}). The two are from different scales wherever "
            "this one is not `paper`: compare the multiples of Adam, not the perplexities."
        ),
        figure=TABLE1.figure(
            f"Optimizers, {document.setting(requests)}, and as published", cells, footers
        ),
        table=TABLE1.table(frame, requests, cells),
        answers=tuple(answers),
        sections=(
            TABLE1.values(cells, requests),
            document.claims(answers),
            learning_rates.section(requests, TABLE1.cell_name),
            document.what_was_run(requests, frame),
            document.limits(
                scale,
                answers,
                "An optimizer that is best where a model trains for a few hundred steps need not "
                "be where it trains for thousands, and a rate that was tuned for one size need not "
                "suit another.",
            ),
            document.runs_behind(cells, frame),
        ),
    )
