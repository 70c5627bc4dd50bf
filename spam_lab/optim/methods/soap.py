"""SOAP as a method of the lab: its hyperparameters, and which matrices are preconditioned.

This module owns the rule that SOAP is for the matrices of attention and feed-forward blocks, and
that embedding, head and norms train with plain Adam. `spam_lab.optim.baselines.soap` has the maths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spam_lab.config.fields import number, text
from spam_lab.config.schema import OptimizerConfig
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer

PRECONDITIONED_KINDS = ("attention", "ffn")
"""Kinds whose matrices have a basis."""


@dataclass
class SoapConfig(OptimizerConfig):
    """SOAP (Vyas et al.): Adam in the eigenbasis of Shampoo's preconditioner."""

    name: str = text("soap", doc="registry name of the method")
    beta1: float = number(
        0.95, low=0, high=1, high_open=True, doc="decay of the first moment (paper: 0.95)"
    )
    beta2: float = number(
        0.95,
        low=0,
        high=1,
        high_open=True,
        doc="decay of the second moment and of the preconditioner (paper: 0.95)",
    )
    eps: float = number(1e-8, low=0, doc="added to the root of the second moment (paper: 1e-8)")
    precondition_every: int = number(
        10, low=1, unit="steps", doc="interval between refreshes of the bases (paper: 10)"
    )
    largest_side: int = number(
        10_000, low=1, doc="longer sides of a matrix are not preconditioned (official: 10000)"
    )


@method("soap", SoapConfig, source="Vyas et al. 2024, arXiv 2409.11321; this project's")
def build(groups: Groups, config: SoapConfig, seed: int) -> Optimizer:
    """SOAP in the attention and feed-forward groups, Adam elsewhere. Nothing is random: no seed."""
    from spam_lab.optim.baselines.soap import SOAP

    return SOAP(
        [{**group, "precondition": group["kind"] in PRECONDITIONED_KINDS} for group in groups],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        precondition_every=config.precondition_every,
        largest_side=config.largest_side,
    )
