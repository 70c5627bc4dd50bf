"""Adam with SPAM's saw-tooth on its learning rate: a control of this laboratory, not of the paper.

This module owns its hyperparameters. `spam_lab.optim.baselines.adam_sawtooth` has the formula.
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
class AdamSawtoothConfig(AdamMoments):
    """Adam that takes steps as large as SPAM's, and resets nothing."""

    name: str = text("adam_sawtooth", doc="registry name of the method")
    interval: int = number(500, low=1, unit="steps", doc="SPAM's delta_t (paper: 500)")
    sawtooth_warmup: int = number(150, low=0, unit="steps", doc="SPAM's N (paper: 150)")
    state_dtype: str | None = choice(
        None, ("float32", "bfloat16"), doc="dtype of the moments; null is the weights'"
    )


@method("adam_sawtooth", AdamSawtoothConfig, source="a control, this project's")
def build(groups: Groups, config: AdamSawtoothConfig, seed: int) -> Optimizer:
    """Adam with the saw-tooth; nothing is random."""
    from spam_lab.optim.baselines.adam_sawtooth import SawtoothAdam

    return SawtoothAdam(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        interval=config.interval,
        sawtooth_warmup=config.sawtooth_warmup,
        state_dtype=config.state_dtype,
    )
