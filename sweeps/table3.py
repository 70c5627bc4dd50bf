"""Table 3: sparse SPAM beside memory-efficient methods on four sizes of LLaMA (paper, Section 4).

Ranks, densities and learning rates by model are those of conf/optimizer/. Sparse SPAM on LLaMA-1B
has intervals of its own (paper, Table 7).
"""

from spam_lab.orchestrate.grid import Cell, Sweep, Value
from sweeps.table1 import MODELS

METHODS = ("adam", "relora", "lora", "galore", "spam_sparse")
OWN: dict[tuple[str, str], dict[str, Value]] = {
    ("llama_1b", "spam_sparse"): {
        "optimizer.delta_t": "${scaled:interval,1000}",
        "optimizer.warmup_steps": "${scaled:interval,300}",
    }
}


def sweep() -> Sweep:
    """Five methods on four sizes, three paired seeds."""
    return Sweep(
        name="table3",
        description="Which memory-efficient method is best at each size of LLaMA?",
        cells=tuple(
            Cell(
                {"panel": model, "value": method},
                {"model": model, "optimizer": method, **OWN.get((model, method), {})},
            )
            for model in MODELS
            for method in METHODS
        ),
        seeds=(0, 1, 2),
    )
