"""What the paper prints of its experiments on images: Table 9 (Appendix E), and what it claims.

Accuracies in percent at 25, 50, 75 and 100 % of the steps; its text says "on par or better".
"""

from __future__ import annotations

from analysis.claims import Claim

SOURCE = "Table 9, Appendix E"

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
"""Parts of a run after which the paper prints an accuracy."""

MODELS = {"vision_convnext": "ConvNeXt-T", "vision_vit": "ViT-Tiny"}

METHODS = {"adamw": "AdamW", "spam": "SPAM"}

ACCURACY: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("vision_convnext", "adamw"): (None, 74.00, 78.83, 80.89),
    ("vision_convnext", "spam"): (None, 73.63, 78.85, 81.04),
    ("vision_vit", "adamw"): (48.09, 56.93, 65.06, 69.71),
    ("vision_vit", "spam"): (47.34, 56.47, 65.57, 69.98),
}
"""(task, method) -> test accuracy in percent; None where our copy of the table has no value."""

BETTER = Claim(
    "table9.better",
    "SPAM ends with fewer errors than AdamW on ConvNeXt-T and on ViT-Tiny",
    f"{SOURCE}: 81.04 against 80.89 %, and 69.98 against 69.71 %, one run each as far as it says",
)


def on_par(margin: str) -> Claim:
    """That SPAM is on par or better; `margin`, "1 point", is ours."""
    return Claim(
        "table9.on_par",
        f"SPAM is on par with AdamW or better: at most {margin} more errors",
        f"{SOURCE}: “on par or better performance than vanilla AdamW”; the margin is ours",
    )
