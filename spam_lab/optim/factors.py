"""The numbers that all entries of a tensor share in one step.

This module owns how the options, the clock and the bias correction become those numbers. It
promises that a learning rate on a device stays there: nothing here waits for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spam_lab.optim.arithmetic import NUMBERS


@dataclass(frozen=True)
class Factors:
    """What the entries of one tensor share in one step.

    Attributes:
        lr: the scheduled learning rate alpha.
        warmup_scale: phi, the factor on it after a reset.
        beta1, beta2: decay rates of m and v.
        eps: added to the raw sqrt(v).
        weight_decay: decoupled; multiplies lr, not phi.
        spike_rule: clip | nullify | gaussian | none.
        clips: whether the rule acts in this step (the grace is over).
        theta: threshold on g^2 / v.
        clip_at_zero_moment: whether an entry whose v is exactly 0 counts as a spike.
        unselected: freeze | sgd | sign, for entries without moments.
        updates: the exponent b of the bias correction, this step included; infinity switches it
            off.
        age: updates of the moments since they were last zeroed, this step excluded.
    """

    lr: float | Tensor
    warmup_scale: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    spike_rule: str
    clips: bool
    theta: float
    clip_at_zero_moment: bool
    unselected: str
    updates: float
    age: int

    @property
    def rate(self) -> float | Tensor:
        """lr phi sqrt(1 - beta2^b) / (1 - beta1^b)."""
        correction: float = math.sqrt(1.0 - self.beta2**self.updates)
        correction /= 1.0 - self.beta1**self.updates
        return self.lr * correction * self.warmup_scale

    @property
    def decay(self) -> float | Tensor:
        """lr times the weight decay."""
        return self.lr * self.weight_decay

    def numbers(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """`arithmetic.NUMBERS`, as one tensor."""
        theta = self.theta if self.clips else math.inf
        growth = self.beta2 + (1.0 - self.beta2) * self.theta
        values: dict[str, float | Tensor] = {
            "beta1": self.beta1,
            "rest1": 1.0 - self.beta1,
            "beta2": self.beta2,
            "rest2": 1.0 - self.beta2,
            "theta": theta,
            "at_zero": 0.0 if self.clips and self.clip_at_zero_moment else math.inf,
            "kappa": math.sqrt(self.theta / growth),
            "rate": self.rate,
            "eps": self.eps,
            "decay": self.decay,
        }
        plain = [0.0 if isinstance(values[k], Tensor) else values[k] for k in NUMBERS]
        numbers = torch.tensor(plain, dtype=dtype, device=device)
        for index, name in enumerate(NUMBERS):
            value = values[name]
            if isinstance(value, Tensor):
                numbers[index] = value.reshape(())
        return numbers
