"""Low-rank training, a baseline of the paper's Table 3: W = B A, and Adam on the factors.

This module owns its hyperparameters. It promises that layers start with the variance of the model's
own initialisation (`spam_lab.optim.baselines.adapters.FactoredLinear`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spam_lab.config.fields import mapping, number, text
from spam_lab.optim.methods import adam
from spam_lab.optim.registry import Groups, elementwise, method

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import Optimizer


@dataclass
class LowRankConfig(adam.AdamMoments):
    """Layers of low rank, trained from scratch (Kamalakara et al. 2022; GaLore's "Low-Rank")."""

    name: str = text("low_rank", doc="registry name of the method")
    rank: int = number(
        128, low=1, doc="rank of a layer (GaLore's Table 2: 128, 256, 256, 512 by model)"
    )
    ranks: dict[str, int] = mapping(doc="GaLore's rank by model name")


def prepare(model: Module, config: LowRankConfig, seed: int) -> None:
    """Replace the linear layers of attention and feed-forward by products of two factors."""
    from spam_lab.optim.baselines.adapters import FactoredLinear, replace_linears

    replace_linears(model, lambda linear, index: FactoredLinear(linear, config.rank, index, seed))


@method(
    "low_rank",
    LowRankConfig,
    source="Kamalakara et al. 2022, as in arXiv 2403.03507; this project's, torch's Adam",
    prepare=prepare,
    coupling=elementwise,
)
def build(groups: Groups, config: LowRankConfig, seed: int) -> Optimizer:
    """Adam on everything. The factors are drawn in `prepare`."""
    return adam.torch_adam(groups, config)
