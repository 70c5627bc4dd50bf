"""Adam, the paper's main baseline: torch's own, as the reference script calls it.

This module owns Adam's hyperparameters. It promises torch's fused kernel wherever there is one, and
this project's arithmetic only for what that kernel lacks: moments of another dtype than the
weights, and stochastic rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spam_lab.config.fields import choice, number, text
from spam_lab.config.schema import OptimizerConfig
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass
class AdamMoments(OptimizerConfig):
    """What Adam and the methods that step with torch's Adam have in common."""

    beta1: float = number(0.9, low=0, high=1, high_open=True, doc="decay of the first moment")
    beta2: float = number(0.999, low=0, high=1, high_open=True, doc="decay of the second moment")
    eps: float = number(1e-8, low=0, doc="added to the bias-corrected root of the second moment")


@dataclass
class AdamConfig(AdamMoments):
    """Adam (Kingma & Ba), or AdamW where there is weight decay."""

    name: str = text("adam", doc="registry name of the method")
    state_dtype: str | None = choice(
        None, ("float32", "bfloat16"), doc="dtype of the moments; null is the weights' (paper)"
    )
    rounding: str = choice(
        "nearest",
        ("nearest", "stochastic"),
        doc="how bfloat16 weights and moments are rounded (paper: nearest)",
    )


def coupling(config: AdamConfig) -> str:
    """What an entry's update needs beside the entry."""
    return random_rounding(config.rounding)


def random_rounding(rounding: str) -> str:
    """The coupling of `rounding`: random bits belong to a position in the whole tensor."""
    drawn = "optimizer.rounding=stochastic draws bits for whole tensors"
    return drawn if rounding == "stochastic" else ""


@method(
    "adam",
    AdamConfig,
    source="Kingma and Ba 2015; torch, or here for other formats",
    coupling=coupling,
)
def build(groups: Groups, config: AdamConfig, seed: int) -> Optimizer:
    """torch's Adam, or AdamW where there is weight decay; the seed is of stochastic rounding."""
    if config.state_dtype is None and config.rounding == "nearest":
        return torch_adam(groups, config)
    from spam_lab.optim.baselines.adam import Adam

    return Adam(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        state_dtype=config.state_dtype,
        rounding=config.rounding,
        seed=seed,
    )


def torch_adam(groups: Groups, config: AdamMoments) -> Optimizer:
    """torch's Adam, or AdamW where there is weight decay, fused. Nothing is random."""
    import torch

    members = [parameter for group in groups for _, parameter in group["params"]]
    optimizer = torch.optim.AdamW if config.weight_decay else torch.optim.Adam
    return optimizer(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=all(m.is_floating_point() and m.device.type in ("cpu", "cuda") for m in members),
    )
