"""Table 4: how many gradients spike in each kind of layer, in all and for their number of weights
(paper, Appendix A): the first 1000 steps of LLaMA-60M with Adam."""

from spam_lab.orchestrate.grid import Sweep
from sweeps import observed


def sweep() -> Sweep:
    """One cell, three seeds."""
    return Sweep(
        name="table4",
        description="Which kinds of layers have the most gradient spikes?",
        cells=(observed("llama_60m"),),
        seeds=(0, 1, 2),
    )
