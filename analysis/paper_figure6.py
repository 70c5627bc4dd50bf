"""What the paper claims of Figure 6, in the two readings of a gradient that is kept.

The figure prints no values. Its text says "keep gradients for all unselected parameters" without
saying what becomes of them. Its second claim names the left and the right panel, which differ in
whether gradients are kept; the left and the middle one differ in what it speaks of, and are taken.
"""

from __future__ import annotations

from analysis.claims import Claim

SOURCE = "Figure 6, Appendix F"
SELECTIONS = ("random", "weight_magnitude", "gradient_magnitude")
READINGS = {"sgd": "plain gradient descent", "sign": "the sign of the gradient"}


def random_is_best(reading: str) -> Claim:
    """Random selection in all three panels of one reading."""
    return Claim(
        f"figure6.{reading}.random_is_best",
        "Random selection is better than both selections by magnitude, whatever is reset or kept "
        f"(kept gradients: {READINGS[reading]})",
        f"{SOURCE}: “the Random selection consistently outperforms the other two approaches”",
    )


def reset_is_better(reading: str) -> Claim:
    """Resetting all moments against keeping those of entries chosen again."""
    return Claim(
        f"figure6.{reading}.reset_is_better",
        "Resetting all moments is better than keeping those of entries chosen again, for every "
        f"selection (kept gradients: {READINGS[reading]})",
        f"{SOURCE}: “resetting all moments after each momentum reset yields better performance "
        "than preserving overlapping moments”. It says so of the left and the right panel, which "
        "differ in something else; the left and the middle one are compared here",
    )
