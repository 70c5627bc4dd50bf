"""Figure 2: bumps of the training loss and the gradient spikes that come with them (paper,
Section 2.1): the first 1000 steps of LLaMA-60M, 350M and 1B with Adam."""

from spam_lab.orchestrate.grid import Sweep
from sweeps import observed

MODELS = ("llama_60m", "llama_350m", "llama_1b")


def sweep() -> Sweep:
    """Three sizes, three seeds."""
    return Sweep(
        name="figure2",
        description="Do gradient spikes come with the bumps of the training loss?",
        cells=tuple(observed(model) for model in MODELS),
        seeds=(0, 1, 2),
    )
