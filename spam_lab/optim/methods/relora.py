"""ReLoRA, a baseline of the paper's Table 3: LoRA whose adapters are merged and drawn again.

This module owns its hyperparameters; `spam_lab.optim.baselines.relora` explains what each does. As
in GaLore's comparison, no full-rank training comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spam_lab.config.fields import number, text
from spam_lab.optim.methods import lora
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass
class ReloraConfig(lora.LoraConfig):
    """High-rank training through low-rank updates (Lialin et al. 2023, arXiv 2307.05695)."""

    name: str = text("relora", doc="registry name of the method")
    merge_every: int = number(
        1000, low=1, unit="steps", doc="K, steps between merges (GaLore prints none; ReLoRA: 5000)"
    )
    rewarm_steps: int = number(
        100, low=0, unit="steps", doc="linear warm-up after each merge (ReLoRA: 100)"
    )
    reset_fraction: float = number(
        0.999, low=0, high=1, doc="share of the adapters' moments that a merge zeroes (code: 0.999)"
    )


@method(
    "relora",
    ReloraConfig,
    source="arXiv 2307.05695, Algorithm 1; this project's, on torch's AdamW",
    prepare=lora.prepare,
)
def build(groups: Groups, config: ReloraConfig, seed: int) -> Optimizer:
    """AdamW that merges the adapters that `prepare` has made."""
    from spam_lab.optim.baselines.relora import ReLoRA

    members = [parameter for group in groups for _, parameter in group["params"]]
    return ReLoRA(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        merge_every=config.merge_every,
        rewarm_steps=config.rewarm_steps,
        reset_fraction=config.reset_fraction,
        seed=seed,
        fused=all(m.is_floating_point() and m.device.type in ("cpu", "cuda") for m in members),
    )
