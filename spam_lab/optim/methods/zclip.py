"""ZClip as a method of the lab: its hyperparameters, in front of Adam.

This module owns their ranges and sources. `spam_lab.optim.baselines.zclip` has the maths.
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
class ZClipConfig(AdamMoments):
    """ZClip (Kumar et al.): clips the joint gradient norm where it is an outlier, then Adam."""

    name: str = text("zclip", doc="registry name of the method")
    alpha: float = number(
        0.97,
        low=0,
        high=1,
        high_open=True,
        doc="decay of the norm's mean and variance (paper: 0.97)",
    )
    z_threshold: float = number(
        2.5, low=0, low_open=True, doc="z-score above which a norm is an outlier (paper: 2.5)"
    )
    max_norm: float | None = number(
        1.0, low=0, low_open=True, doc="largest joint norm, always; null for none (code: 1.0)"
    )
    warmup_steps: int = number(
        25, low=1, unit="steps", doc="steps that only collect norms (paper: 25)"
    )


@method(
    "zclip",
    ZClipConfig,
    source="Kumar et al. 2025, arXiv 2504.02507 and its released code; this project's",
)
def build(groups: Groups, config: ZClipConfig, seed: int) -> Optimizer:
    """ZClip over all parameters together. Nothing is random: no seed."""
    from spam_lab.optim.baselines.zclip import ZClip

    return ZClip(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        alpha=config.alpha,
        z_threshold=config.z_threshold,
        max_norm=config.max_norm,
        warmup_steps=config.warmup_steps,
    )
