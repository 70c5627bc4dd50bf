"""Stable-SPAM as a method of the lab: its hyperparameters, with the README's BF16 defaults.

This module owns their ranges and sources. `spam_lab.optim.baselines.stable_spam` has the maths.
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
class StableSpamConfig(AdamMoments):
    """Stable-SPAM (Huang et al.): gradients clipped and normalised by their history, and resets."""

    name: str = text("stable_spam", doc="registry name of the method")
    eps: float = number(
        1e-8, low=0, doc="added to the corrected roots of v and of the mean squared norm"
    )
    gamma1: float = number(
        0.85,
        low=0,
        high=1,
        high_open=True,
        doc="decay of the mean gradient norm (BF16: 0.85; 4 bits: 0.7)",
    )
    gamma2: float = number(
        0.99999,
        low=0,
        high=1,
        high_open=True,
        doc="decay of the mean squared gradient norm (BF16: 0.99999; 4 bits: 0.9)",
    )
    gamma3: float = number(
        0.999,
        low=0,
        high=1,
        high_open=True,
        doc="decay of the mean largest entry, the clipping threshold (0.999)",
    )
    delta_t: int | None = number(
        1000,
        low=1,
        unit="steps",
        doc="interval between momentum resets; null never (BF16: 1000; 4 bits: 500)",
    )
    total_steps: int | None = number(
        None,
        low=1,
        unit="steps",
        doc="cosine over which gamma1 and beta1 shrink; null keeps them (script: 20000)",
    )
    eta_min: float = number(
        0.5, low=0, high=1, doc="what the cosine ends at; gamma1 and beta1 are multiplied with it"
    )
    counters: str = choice(
        "repaired",
        ("repaired", "published"),
        doc="what bias corrections count: what was averaged, or the released code's mix",
    )


@method(
    "stable_spam",
    StableSpamConfig,
    source="Huang et al. 2025, arXiv 2502.17055v2 and its released code; this project's",
)
def build(groups: Groups, config: StableSpamConfig, seed: int) -> Optimizer:
    """Stable-SPAM for every parameter. Nothing is random: no seed."""
    from spam_lab.optim.baselines.stable_spam import StableSPAM

    return StableSPAM(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        gamma1=config.gamma1,
        gamma2=config.gamma2,
        gamma3=config.gamma3,
        delta_t=config.delta_t,
        total_steps=config.total_steps,
        eta_min=config.eta_min,
        counters=config.counters,
    )
