"""Table 3: sparse SPAM beside memory-efficient methods on four sizes of LLaMA (paper, Section 4).

Ranks, densities, learning rates and intervals by model are those of conf/optimizer/.
"""

from spam_lab.orchestrate.grid import Cell, Sweep
from sweeps.table1 import MODELS

METHODS = ("adam", "relora", "lora", "galore", "spam_sparse")


def sweep() -> Sweep:
    """Five methods on four sizes, three paired seeds."""
    return Sweep(
        name="table3",
        description="Which memory-efficient method is best at each size of LLaMA?",
        cells=tuple(
            Cell({"panel": model, "value": method}, {"model": model, "optimizer": method})
            for model in MODELS
            for method in METHODS
        ),
        seeds=(0, 1, 2),
    )
