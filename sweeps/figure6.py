"""Figure 6: which entries of sparse SPAM have moments, and what becomes of the moments and of the
other entries at a reset, on LLaMA-60M (paper, Appendix F).

Three selections under three regimes. "Keep gradients for all unselected parameters" is defined
nowhere, and the public code drops them. It is read in two ways: an entry without moments takes a
step of plain gradient descent at the same learning rate (sgd), or of its sign (sign, as in FRUGAL).
The regimes that keep gradients are run in both.
"""

from spam_lab.orchestrate.grid import Cell, Sweep, Value

SELECTIONS = ("random", "weight_magnitude", "gradient_magnitude")
REGIMES: dict[str, dict[str, Value]] = {
    "reset_keep_sgd": {"optimizer.reselected": "reset", "optimizer.unselected": "sgd"},
    "reset_keep_sign": {"optimizer.reselected": "reset", "optimizer.unselected": "sign"},
    "overlap_keep_sgd": {"optimizer.reselected": "keep", "optimizer.unselected": "sgd"},
    "overlap_keep_sign": {"optimizer.reselected": "keep", "optimizer.unselected": "sign"},
    "reset_drop": {"optimizer.reselected": "reset", "optimizer.unselected": "freeze"},
}


def sweep() -> Sweep:
    """Three selections under the paper's three regimes, two of them in two readings."""
    return Sweep(
        name="figure6",
        description="Which entries should have moments, and what of the others at a reset?",
        cells=tuple(
            Cell(
                {"panel": regime, "value": selection},
                {
                    "model": "llama_60m",
                    "optimizer": "spam_sparse",
                    "optimizer.selection": selection,
                    **overrides,
                },
            )
            for regime, overrides in REGIMES.items()
            for selection in SELECTIONS
        ),
        seeds=(0, 1, 2),
    )
