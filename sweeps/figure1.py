"""Figure 1: the training curves of Table 1 (paper, Section 1), from the same runs."""

from dataclasses import replace

from spam_lab.orchestrate.grid import Sweep
from sweeps import table1


def sweep() -> Sweep:
    """The cells of Table 1."""
    return replace(
        table1.sweep(),
        name="figure1",
        description="How does the perplexity fall in training, with each optimizer of Table 1?",
    )
