"""Table 14: what an iteration costs with each optimizer (paper, Appendix L).

Short runs that are not trained to the end: the loop's clock takes the mean over the last 100
iterations, as the paper does, after 20 that warm up. GaLore has rank 128 at both sizes, as the
table says, and sparse SPAM d = 0.25. For times worth comparing, run one at a time on an idle
machine: `cluster.workers=1`.
"""

from spam_lab.orchestrate.grid import Cell, Sweep, Value

MODELS = ("llama_60m", "llama_130m")
STEPS = 120
METHODS: dict[str, dict[str, Value]] = {
    "adam": {"optimizer": "adam"},
    "adam_mini": {"optimizer": "adam_mini"},
    "adafactor": {"optimizer": "adafactor"},
    "galore": {"optimizer": "galore", "optimizer.rank": "${scaled:width,128}"},
    "spam": {"optimizer": "spam"},
    "spam_sparse": {"optimizer": "spam_sparse", "optimizer.density": 0.25},
}
SHORT: dict[str, Value] = {
    "schedule.steps": STEPS,
    "schedule.warmup_steps": 20,
    "evaluation.every": STEPS,
    "evaluation.tokens": 8192,
}


def sweep() -> Sweep:
    """Six optimizers on two sizes, three seeds."""
    return Sweep(
        name="table14",
        description="What does an iteration cost with each optimizer?",
        cells=tuple(
            Cell({"panel": model, "value": name}, {"model": model, **overrides, **SHORT})
            for model in MODELS
            for name, overrides in METHODS.items()
        ),
        seeds=(0, 1, 2),
    )
