"""Adam whose learning rate goes through SPAM's saw-tooth, with no reset of a moment.

This module owns the control that parts SPAM's resets from the step sizes they bring about. A reset
that leaves the bias correction running multiplies SPAM's steps by a saw-tooth, 1.87 on average at
the paper's setting late in a run; here Adam takes exactly that multiplier and keeps its moments.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from spam_lab.optim.base import Group
from spam_lab.optim.baselines.adam import Adam
from spam_lab.optim.factors import Factors
from spam_lab.optim.reset import ResetClock


def sawtooth(call: int, clock: ResetClock, betas: tuple[float, float]) -> float:
    """How much larger than Adam's a step of SPAM is at the 1-based `call`, for the same gradients.

        phi sqrt(1 - beta2^b) / (1 - beta1^b) * (1 - beta1^k) / sqrt(1 - beta2^k)

    with phi the warm-up after a reset, b = `call`, which the running bias correction counts, and k
    the updates that are in SPAM's moments: those since the last reset, this one included. It is 1
    before the first reset. It is exact for a constant gradient, and in expectation of m and v for
    gradients of one distribution.
    """
    resets, scale = clock.resets(call), clock.scale(call)
    if resets == 0 or clock.delta_t is None:
        return scale
    known = call % clock.delta_t + 1
    beta1, beta2 = betas
    correction = math.sqrt(1.0 - beta2**call) / (1.0 - beta1**call)
    return scale * correction * (1.0 - beta1**known) / math.sqrt(1.0 - beta2**known)


class SawtoothAdam(Adam):
    """Adam with its learning rate times `sawtooth`.

    Args:
        params, lr, betas, eps, weight_decay, state_dtype: as in `Adam`; no multiplier is on the
            weight decay, as none is in SPAM.
        interval: dT of the SPAM whose steps are taken, in calls.
        sawtooth_warmup: its N, in calls.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        interval: int = 500,
        sawtooth_warmup: int = 150,
        state_dtype: torch.dtype | str | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, state_dtype=state_dtype)
        # In the groups, and so in state_dict, as all that decides a step.
        own = {"interval": interval, "sawtooth_warmup": sawtooth_warmup}
        self.defaults.update(own)
        for group in self.param_groups:
            group.update(own)

    def _factors(self, group: Group, scale: float, clips: bool, updates: int, age: int) -> Factors:
        """Adam's, with the saw-tooth on the learning rate."""
        factors = super()._factors(group, scale, clips, updates, age)
        clock = ResetClock(group["interval"], group["sawtooth_warmup"], grace_steps=0)
        return replace(
            factors, warmup_scale=scale * sawtooth(group["calls"], clock, group["betas"])
        )
