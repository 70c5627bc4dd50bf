"""LoRA from random initialisation, a baseline of the paper's Table 3: Adam on low-rank adapters.

This module owns LoRA's hyperparameters. It promises that the weights of attention and feed-forward
layers stay as they are initialised, and that all else is trained as under Adam.
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
class LoraConfig(adam.AdamMoments):
    """Low-rank adaptation (Hu et al. 2021), trained from scratch as in GaLore's comparison."""

    name: str = text("lora", doc="registry name of the method")
    rank: int = number(
        128, low=1, doc="rank of an adapter (GaLore's Table 2: 128, 256, 256, 512 by model)"
    )
    ranks: dict[str, int] = mapping(doc="GaLore's rank by model name")
    alpha: float = number(
        32.0, low=0, low_open=True, doc="an adapter counts alpha / rank times (GaLore: 32)"
    )
    dropout: float = number(
        0.05, low=0, high=1, high_open=True, doc="dropout of an adapter's input (GaLore: 0.05)"
    )


def prepare(model: Module, config: LoraConfig, seed: int) -> None:
    """Freeze the linear layers of attention and feed-forward and give each an adapter."""
    from spam_lab.optim.baselines.adapters import AdaptedLinear, replace_linears

    replace_linears(
        model,
        lambda linear, index: AdaptedLinear(
            linear, config.rank, config.alpha, config.dropout, index, seed
        ),
    )


@method(
    "lora",
    LoraConfig,
    source="Hu et al. 2021, from scratch as in arXiv 2403.03507; this project's, torch's Adam",
    prepare=prepare,
    coupling=elementwise,
)
def build(groups: Groups, config: LoraConfig, seed: int) -> Optimizer:
    """Adam on adapters, embeddings, head and norms. The adapters are drawn in `prepare`."""
    return adam.torch_adam(groups, config)
