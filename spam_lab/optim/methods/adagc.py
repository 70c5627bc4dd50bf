"""AdaGC as a method of the lab: its hyperparameters, in front of Adam.

This module owns their ranges and sources. `spam_lab.optim.baselines.adagc` has the maths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spam_lab.config.fields import number, text
from spam_lab.optim.methods.adam import AdamMoments
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass
class AdaGCConfig(AdamMoments):
    """AdaGC (Wang et al.): clips each tensor's gradient to its own usual norm, then Adam."""

    name: str = text("adagc", doc="registry name of the method")
    beta: float = number(
        0.98,
        low=0,
        high=1,
        high_open=True,
        doc="decay of a tensor's usual norm (pytorch_optimizer: 0.98)",
    )
    lambda_abs: float = number(
        1.0,
        low=0,
        low_open=True,
        doc="limit of the joint norm in the warm-up (pytorch_optimizer: 1.0)",
    )
    lambda_rel: float = number(
        1.05,
        low=0,
        low_open=True,
        doc="limit of a tensor's norm over its usual one (pytorch_optimizer: 1.05)",
    )
    warmup_steps: int = number(
        100,
        low=0,
        unit="steps",
        doc="first step with limits by tensor (pytorch_optimizer: 100)",
    )


@method(
    "adagc",
    AdaGCConfig,
    source="Wang et al. 2025, arXiv 2502.11034, as in pytorch_optimizer; this project's",
)
def build(groups: Groups, config: AdaGCConfig, seed: int) -> Optimizer:
    """AdaGC for every parameter. Nothing is random: no seed."""
    from spam_lab.optim.baselines.adagc import AdaGC

    return AdaGC(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        beta=config.beta,
        lambda_abs=config.lambda_abs,
        lambda_rel=config.lambda_rel,
        warmup_steps=config.warmup_steps,
    )
