"""The optimizers: SPAM, its rules, and every baseline, behind one registry.

This package owns the update of the weights. It promises that the maths is readable beside the
paper and equal to the reference trajectories, and that importing the registry and the declared
hyperparameters loads no torch: `SPAM` itself is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spam_lab.optim.spam import SPAM

__all__ = ["SPAM"]


def __getattr__(name: str) -> Any:
    """Import `SPAM` on first use (PEP 562), so that configs can be read without torch."""
    if name == "SPAM":
        from spam_lab.optim.spam import SPAM

        return SPAM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
