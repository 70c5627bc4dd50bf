"""Figure 4: gradient spikes under earlier remedies (paper, Section 2.1): LLaMA-60M with Adam, with
Embed LN, Embed Detach, Scaled Embed and Scaled Init, and without any (the runs of Table 4)."""

from spam_lab.orchestrate.grid import Cell, Sweep
from sweeps import OBSERVED, observed

STABILIZERS = ("embed_ln", "embed_detach", "scaled_embed", "scaled_init")
MODEL = "llama_60m"


def sweep() -> Sweep:
    """Four remedies and none, three paired seeds."""
    treated = (
        Cell({"panel": MODEL, "value": name}, {"model": MODEL, "stabilizer": name, **OBSERVED})
        for name in STABILIZERS
    )
    return Sweep(
        name="figure4",
        description="Do earlier remedies against spikes remove the gradient spikes?",
        cells=(observed(MODEL), *treated),
        seeds=(0, 1, 2),
    )
