"""Table 12: SPAM that scales spikes back beside SPAM that sets them to zero (Appendix K)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from analysis import spike_rules
from analysis.exhibit import Exhibit
from analysis.paper_table1 import TABLE12, clipping_is_better
from spam_lab.config.schema import ScaleConfig

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

QUESTION = spike_rules.Question(
    name="table12",
    title="clipping spikes beside nullifying them",
    published=TABLE12,
    other="nullify",
    statement="clipping beats nullifying",
    claim=clipping_is_better,
    reading=(
        "Both rules call the same entries spikes, those with g² > θv. Clipping keeps sign(g)·√(θv) "
        "of such an entry, nullifying keeps nothing."
    ),
)


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table12`."""
    return spike_rules.build(QUESTION, frame, requests, scale)
