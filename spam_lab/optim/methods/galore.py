"""GaLore as a method of the lab: its hyperparameters, and which matrices are projected.

This module owns the rule that the matrices of attention and feed-forward blocks are projected, as
in GaLore's script, and that embedding, head and norms train with plain Adam at the full learning
rate. `spam_lab.optim.baselines.galore` has the maths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spam_lab.config.fields import mapping, number, text
from spam_lab.optim.methods.adam import AdamMoments
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer

PROJECTED_KINDS = ("attention", "ffn")
"""Kinds whose matrices are projected."""


@dataclass
class GaloreConfig(AdamMoments):
    """GaLore (Zhao et al.): Adam in the leading singular directions of a recent gradient."""

    name: str = text("galore", doc="registry name of the method")
    eps: float = number(
        1e-6, low=0, doc="added to the raw root of the second moment (code: 1e-6; paper: 1e-8)"
    )
    rank: int = number(
        128, low=1, doc="directions kept (GaLore's Table 2: 128, 256, 256, 512 by model)"
    )
    ranks: dict[str, int] = mapping(doc="GaLore's rank by model name")
    update_interval: int = number(
        200, low=1, unit="steps", doc="T, interval between new projectors (paper: 200)"
    )
    alpha: float = number(
        0.25, low=0, low_open=True, doc="multiplier of the projected update (paper: 0.25)"
    )


@method("galore", GaloreConfig, source="Zhao et al. 2024, arXiv 2403.03507; this project's")
def build(groups: Groups, config: GaloreConfig, seed: int) -> Optimizer:
    """GaLore in the attention and feed-forward groups, Adam elsewhere. Nothing is random."""
    from spam_lab.optim.baselines.galore import GaLore

    return GaLore(
        [{**group, "project": group["kind"] in PROJECTED_KINDS} for group in groups],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        rank=config.rank,
        update_interval=config.update_interval,
        alpha=config.alpha,
    )
