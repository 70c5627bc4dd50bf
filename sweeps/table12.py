"""Table 12: SPAM that scales spikes back beside SPAM that sets them to zero (paper, Appendix K)."""

from spam_lab.orchestrate.grid import Sweep
from sweeps import spike_rules

RULES = ("clip", "nullify")


def sweep() -> Sweep:
    """Two rules on two sizes, three paired seeds."""
    return Sweep(
        name="table12",
        description="Is it better to scale a spike back than to set it to zero?",
        cells=spike_rules(RULES),
        seeds=(0, 1, 2),
    )
