"""GradientStabilizer as a method of the lab: its hyperparameters, in front of Adam.

This module owns their ranges and sources. `spam_lab.optim.baselines.gradient_stabilizer` has the
maths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spam_lab.config.fields import choice, number, text
from spam_lab.optim.methods.adam import AdamMoments
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass
class GradientStabilizerConfig(AdamMoments):
    """GradientStabilizer (Huang et al.): each gradient gets a length from past norms, then Adam."""

    name: str = text("gradient_stabilizer", doc="registry name of the method")
    gamma1: float = number(
        0.6, low=0, high=1, high_open=True, doc="decay of the mean gradient norm (paper: 0.6)"
    )
    gamma2: float = number(
        0.999,
        low=0,
        high=1,
        high_open=True,
        doc="decay of the mean squared gradient norm (paper: 0.999)",
    )
    correction: str = choice(
        "code",
        ("code", "paper"),
        doc="whether both means are corrected for their start (released code) or not (paper)",
    )


@method(
    "gradient_stabilizer",
    GradientStabilizerConfig,
    source="Huang et al., arXiv 2502.17055v4 and its released code; this project's",
)
def build(groups: Groups, config: GradientStabilizerConfig, seed: int) -> Optimizer:
    """GradientStabilizer for every parameter. Nothing is random: no seed."""
    from spam_lab.optim.baselines.gradient_stabilizer import GradientStabilizer

    return GradientStabilizer(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        gamma1=config.gamma1,
        gamma2=config.gamma2,
        correction=config.correction,
    )
