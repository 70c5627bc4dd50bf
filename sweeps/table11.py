"""Table 11: SPAM's threshold on g²/v beside clipping by a Gaussian of the gradients (paper,
Appendix J)."""

from spam_lab.orchestrate.grid import Sweep
from sweeps import spike_rules

RULES = ("clip", "gaussian")


def sweep() -> Sweep:
    """Two rules on two sizes, three paired seeds."""
    return Sweep(
        name="table11",
        description="Is SPAM's own rule for spikes better than one by a Gaussian?",
        cells=spike_rules(RULES),
        seeds=(0, 1, 2),
    )
