"""Table 2: Adam with four earlier remedies against spikes beside SPAM, on LLaMA-60M (Section 4).

The remedies change the model, so its loss at the first step too; SPAM changes the optimizer alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from analysis import document, learning_rates
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.method_table import footer
from analysis.paper_table1 import REMEDIES_FALL_SHORT, TABLE2
from spam_lab.config.schema import ScaleConfig

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

MODEL = "llama_60m"
REMEDIES = tuple(value for value in TABLE2.methods if value not in ("adam", "spam"))


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table2`."""
    cells = TABLE2.cells(frame)
    answer = TABLE2.better(REMEDIES_FALL_SHORT, [("spam", v) for v in REMEDIES], MODEL, cells)
    return Exhibit(
        name="table2",
        title=f"Table 2 at scale {scale.name}: remedies against spikes, beside SPAM",
        summary=(
            "Mean validation perplexity with 95 % t interval over seeds, beside the values that "
            f"the paper publishes ({TABLE2.source}). Compare the multiples of Adam, not the "
            "perplexities, wherever this scale is not `paper`."
        ),
        figure=TABLE2.figure(
            f"Remedies against spikes, {document.setting(requests)}, and as published",
            cells,
            {MODEL: footer("SPAM is better than every remedy", answer)},
        ),
        table=TABLE2.table(frame, requests, cells),
        answers=(answer,),
        sections=(
            TABLE2.values(cells, requests),
            document.claims((answer,)),
            _readings(requests),
            learning_rates.section(requests, TABLE2.cell_name),
            document.what_was_run(requests, frame),
            document.limits(
                scale, (answer,), "Remedies against rare events need runs that are long enough."
            ),
            document.runs_behind(cells, frame),
        ),
    )


def _readings(requests: Sequence[Request]) -> Section:
    """What each remedy is, from the runs' own configs: the paper names them without definitions."""
    rows = {}
    for request in requests:
        setting = request.config.stabilizer
        rows[setting.name] = (
            setting.name,
            setting.embed_norm or "–",
            setting.embed_detach if setting.embed_detach is not None else "–",
            "yes" if setting.scaled_embed else "–",
            setting.scaled_init or "–",
        )
    headers = ["stabilizer", "norm on the embedding", "share of its gradient", "times √width"]
    return Section(
        "How the remedies were read",
        "The paper cites the remedies and does not say which norm, share or matrices it took. "
        "Detaching the embedding multiplies its gradient by a constant, which Adam's own division "
        "takes out again but for its ε.\n\n"
        + document.table([*headers, "initialisation"], list(rows.values())),
    )
