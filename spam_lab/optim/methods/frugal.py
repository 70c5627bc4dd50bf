"""FRUGAL as a method of the lab: its hyperparameters, and which matrices are split.

This module owns the rule that the matrices of attention and feed-forward blocks are split, and that
embedding, head and norms train with plain Adam. `spam_lab.optim.baselines.frugal` has the maths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spam_lab.config.fields import choice, number, text
from spam_lab.optim.methods.adam import AdamMoments
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer

SPLIT_KINDS = ("attention", "ffn")
"""Kinds of whose matrices only a part has moments."""


@dataclass
class FrugalConfig(AdamMoments):
    """FRUGAL (Zmushko et al.): Adam on a part of the weights, signSGD on the rest."""

    name: str = text("frugal", doc="registry name of the method")
    eps: float = number(
        1e-8, low=0, doc="added to the bias-corrected root of the second moment (code: 1e-8)"
    )
    density: float = number(
        0.25, low=0, low_open=True, high=1, doc="share that has moments (code: 0.25)"
    )
    selection: str = choice(
        "blocks",
        ("blocks", "columns", "random"),
        doc="what is drawn to have moments: matrices (main experiments), columns, or entries",
    )
    update_interval: int = number(
        200, low=1, unit="steps", doc="T, interval between draws, all moments reset (code: 200)"
    )
    sign_lr_ratio: float = number(
        1.0, low=0, doc="learning rate of the sign descent over Adam's (code: 1 in pre-training)"
    )


@method("frugal", FrugalConfig, source="Zmushko et al. 2024, arXiv 2411.07837; this project's")
def build(groups: Groups, config: FrugalConfig, seed: int) -> Optimizer:
    """FRUGAL in the attention and feed-forward groups, Adam elsewhere."""
    from spam_lab.optim.baselines.frugal import FRUGAL

    return FRUGAL(
        [{**group, "split": group["kind"] in SPLIT_KINDS} for group in groups],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        density=config.density,
        selection=config.selection,
        update_interval=config.update_interval,
        sign_lr_ratio=config.sign_lr_ratio,
        seed=seed,
    )
