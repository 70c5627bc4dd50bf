"""Table 1: SPAM beside other optimizers on four sizes of LLaMA (paper, Section 4).

The learning rates are those of conf/optimizer/; `tuned=` takes over what the study lr_per_method
found, on a seed that no sweep uses. Figure 1 draws the curves of the same runs.
"""

from spam_lab.orchestrate.grid import Cell, Sweep
from sweeps.lr_per_method import METHODS

MODELS = ("llama_60m", "llama_130m", "llama_350m", "llama_1b")


def sweep() -> Sweep:
    """Six optimizers on four sizes, three paired seeds."""
    return Sweep(
        name="table1",
        description="Which optimizer is best at each size of LLaMA?",
        cells=tuple(
            Cell({"panel": model, "value": method}, {"model": model, "optimizer": method})
            for model in MODELS
            for method in METHODS
        ),
        seeds=(0, 1, 2),
    )
