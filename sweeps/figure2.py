"""Figure 2: bumps of the training loss and the gradient spikes that come with them (paper,
Section 2.1): the first 1000 steps of LLaMA-60M, 350M and 1B with Adam.

Observing takes, at the paper's sizes in bfloat16, 8 GB of the GPU for 60M. For 350M and 1B it would
take 50 and 181 GB: there Definition P.1 is left to the weights that are followed, and all of them
are counted by the running average, for 1.5 and 5.4 GB (conf/observe/spikes.yaml).
"""

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
