"""APOLLO and APOLLO-Mini as a method of the lab: hyperparameters, and which matrices are projected.

This module owns the rule that the matrices of attention and feed-forward blocks are projected, and
that embedding, head and norms train with plain Adam. `spam_lab.optim.baselines.apollo` has the
maths; `apollo_mini` is this method with a rank of 1 and one scale a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spam_lab.config.fields import choice, mapping, number, text
from spam_lab.optim.methods.adam import AdamMoments
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer

PROJECTED_KINDS = ("attention", "ffn")
"""Kinds whose matrices are projected."""


@dataclass
class ApolloConfig(AdamMoments):
    """APOLLO (Zhu et al.): gradients rescaled by channel, as Adam would a projection of them."""

    name: str = text("apollo", doc="registry name of the method")
    eps: float = number(
        1e-6, low=0, doc="added to the raw root of the second moment (authors' code: 1e-6)"
    )
    rank: int = number(
        128, low=1, doc="columns of the projection (authors' scripts: 128 to 512, Mini: 1)"
    )
    ranks: dict[str, int] = mapping(doc="rank by model name, as in GaLore's comparison")
    update_interval: int = number(
        200, low=1, unit="steps", doc="T, interval between new projections (scripts: 200)"
    )
    scale: float = number(
        1.0, low=0, low_open=True, doc="squared multiplier of the update (scripts: 1, Mini: 128)"
    )
    scale_by: str = choice(
        "channel", ("channel", "tensor"), doc="what shares a scale (Mini: tensor)"
    )
    norm_growth: float | None = number(
        1.01, low=1, doc="most that an update's norm grows by in a step; null lets it (paper: 1.01)"
    )


@method("apollo", ApolloConfig, source="Zhu et al. 2024, arXiv 2412.05270; this project's")
def build(groups: Groups, config: ApolloConfig, seed: int) -> Optimizer:
    """APOLLO in the attention and feed-forward groups, Adam elsewhere."""
    from spam_lab.optim.baselines.apollo import APOLLO

    return APOLLO(
        [{**group, "project": group["kind"] in PROJECTED_KINDS} for group in groups],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        rank=config.rank,
        update_interval=config.update_interval,
        scale=config.scale,
        scale_by=config.scale_by,
        norm_growth=config.norm_growth,
        seed=seed,
    )
