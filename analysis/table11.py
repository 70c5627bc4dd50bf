"""Table 11: SPAM's threshold on g²/v beside clipping by a Gaussian of gradients (Appendix J)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from analysis import spike_rules
from analysis.exhibit import Exhibit
from analysis.paper_table1 import TABLE11, gss_is_better
from spam_lab.config.schema import ScaleConfig

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

QUESTION = spike_rules.Question(
    name="table11",
    title="spike-aware clipping beside Gaussian clipping",
    published=TABLE11,
    other="gaussian",
    statement="spike-aware beats Gaussian",
    claim=gss_is_better,
    reading=(
        "The Gaussian rule moves an entry further than three standard deviations from the mean of "
        "its gradient to that distance. The paper says only that the mean is a moving average and "
        "the variance a running mean. Here they decay with β₁ and β₂, like the moments beside "
        "them, see the gradient before it is clipped, and start again at every reset."
    ),
)


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table11`."""
    return spike_rules.build(QUESTION, frame, requests, scale)
