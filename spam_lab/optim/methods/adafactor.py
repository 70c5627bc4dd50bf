"""Adafactor, the best of the paper's baselines beside SPAM at the small sizes.

This module owns the hyperparameters that the reference script leaves to its library. It
promises a fixed learning rate: neither relative steps nor a scale from the weights.
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
class AdafactorConfig(OptimizerConfig):
    """Adafactor (Shazeer & Stern) as the reference script of SPAM sets it."""

    name: str = text("adafactor", doc="registry name of the method")
    beta1: float | None = number(
        None,
        low=0,
        high=1,
        high_open=True,
        doc="decay of a moment of the updates; null has none (reference: null; GaLore gives one)",
    )
    decay_rate: float = number(
        -0.8,
        high=0,
        high_open=True,
        doc="second moment: beta2 at step t is 1 - t^this (paper: -0.8)",
    )
    eps1: float = number(
        1e-30, low=0, low_open=True, doc="added to every squared gradient (paper: 1e-30)"
    )
    clip_threshold: float = number(
        1.0, low=0, low_open=True, doc="largest root mean square of a tensor's update (paper: 1)"
    )


@method(
    "adafactor", AdafactorConfig, source="Shazeer and Stern 2018, arXiv 1804.04235; this project's"
)
def build(groups: Groups, config: AdafactorConfig, seed: int) -> Optimizer:
    """Adafactor for every tensor. Nothing is random: no seed."""
    from spam_lab.optim.baselines.adafactor import Adafactor

    return Adafactor(
        groups,
        lr=config.lr,
        beta1=config.beta1,
        decay_rate=config.decay_rate,
        eps1=config.eps1,
        clip_threshold=config.clip_threshold,
        weight_decay=config.weight_decay,
    )
