"""Figure 8: gradient, first and second moment around spikes in training (paper, Appendix H):
LLaMA-60M with Adam, as Table 4 has it, with four times as many weights followed in each kind of
each layer: of 64 there were 3, 2 and 0 at nano that show how a moment comes back."""

from spam_lab.orchestrate.grid import Cell, Sweep
from sweeps import observed

FOLLOWED = 256


def sweep() -> Sweep:
    """One cell, three seeds."""
    known = observed("llama_60m")
    return Sweep(
        name="figure8",
        description="How long do the moments bear a gradient spike in real training?",
        cells=(Cell(known.labels, {**known.overrides, "observe.coordinates": FOLLOWED}),),
        seeds=(0, 1, 2),
    )
