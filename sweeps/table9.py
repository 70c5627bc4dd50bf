"""Table 9: SPAM beside AdamW on images (paper, Appendix E).

The paper resets every 25,000 steps and re-warms for 20, over 120 epochs. At scales with shorter
runs the interval follows the length of a run, so that the reset stays where it is in the paper's
run, after two thirds of it.
"""

from spam_lab.orchestrate.grid import Cell, Sweep, Value

TASKS = ("vision_convnext", "vision_vit")

METHODS: dict[str, dict[str, Value]] = {
    "adamw": {"optimizer": "adamw"},
    "spam": {
        "optimizer": "spam",
        "optimizer.delta_t": "${scaled:run_length,25000}",
        "optimizer.warmup_steps": "${scaled:interval,20}",
        "optimizer.theta": 5000,
    },
}


def sweep() -> Sweep:
    """Two optimizers on two models, three paired seeds."""
    return Sweep(
        name="table9",
        description="Does SPAM train ConvNeXt-T and ViT-Tiny at least as well as AdamW?",
        cells=tuple(
            Cell({"panel": task, "value": method}, {"task": task, **overrides})
            for task in TASKS
            for method, overrides in METHODS.items()
        ),
        seeds=(0, 1, 2),
    )
