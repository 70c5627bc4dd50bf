"""Which learning rate each method trained with, and where it comes from.

A comparison of optimizers is worth what its learning rates are worth. A rate that a study found is
named with the study and its seed; any other is said to be as configured, and not tuned here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from analysis import document
from analysis.document import Section
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

UNTUNED = "conf/optimizer/, not tuned for these runs"


def section(requests: Sequence[Request], name: Callable[[str, Value], str]) -> Section:
    """One row a cell; `name` says what a cell is called."""
    rows = {}
    for request in requests:
        panel, value = str(request.labels["panel"]), request.labels["value"]
        rows[panel, value] = (
            name(panel, value),
            f"{request.config.optimizer.lr:g}",
            request.tuned or UNTUNED,
        )
    tuned = sum(source != UNTUNED for _, _, source in rows.values())
    seeds = ", ".join(str(seed) for seed in sorted({request.seed for request in requests}))
    if tuned == 0:
        opening = (
            "No rate was tuned for these runs: they are those of conf/optimizer/, whose files say "
            "which are printed in a paper. `python launch.py study=lr_per_method` searches them on "
            "LLaMA-60M, and `tuned=` takes over what it found."
        )
    else:
        opening = (
            f"The rates of {tuned} of {len(rows)} cells were found by a study, on a seed that is "
            f"none of those of these runs ({seeds})."
        )
        if tuned < len(rows):
            opening += (
                " The others are those of conf/optimizer/: what was found for one model says "
                "nothing of another."
            )
    headers = ["cell", "learning rate as run", "where from"]
    return Section("Learning rates", f"{opening}\n\n{document.table(headers, list(rows.values()))}")
