"""Figure 8: gradient, first and second moment around spikes in training (paper, Appendix H):
LLaMA-60M with Adam, the runs of Table 4."""

from spam_lab.orchestrate.grid import Sweep
from sweeps import observed


def sweep() -> Sweep:
    """One cell, three seeds."""
    return Sweep(
        name="figure8",
        description="How long do the moments bear a gradient spike in real training?",
        cells=(observed("llama_60m"),),
        seeds=(0, 1, 2),
    )
