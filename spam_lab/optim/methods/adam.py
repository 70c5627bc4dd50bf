"""Adam, the paper's main baseline: torch's own, as the reference script calls it.

This module owns Adam's hyperparameters. It promises torch's fused kernel wherever there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spam_lab.config.fields import number, text
from spam_lab.config.schema import OptimizerConfig
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass
class AdamConfig(OptimizerConfig):
    """Adam (Kingma & Ba), or AdamW where there is weight decay."""

    name: str = text("adam", doc="registry name of the method")
    beta1: float = number(0.9, low=0, high=1, high_open=True, doc="decay of the first moment")
    beta2: float = number(0.999, low=0, high=1, high_open=True, doc="decay of the second moment")
    eps: float = number(1e-8, low=0, doc="added to the bias-corrected root of the second moment")


@method("adam", AdamConfig, source="Kingma and Ba 2015; torch.optim, fused")
def build(groups: Groups, config: AdamConfig, seed: int) -> Optimizer:
    """torch's Adam, or AdamW where there is weight decay. Nothing is random: no seed."""
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
