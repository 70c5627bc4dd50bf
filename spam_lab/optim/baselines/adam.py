"""Adam with moments of its own dtype and stochastic rounding, which torch's kernels lack.

This module owns the controls that separate Adam's number format from its method. It is SPAM's
arithmetic with nothing of SPAM in it: no resets, no spike rule, no mask. It promises float32 inside
a step and one rounding at the end.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from spam_lab.optim.base import Group
from spam_lab.optim.spam import SPAM


class Adam(SPAM):
    """Adam, or AdamW where there is weight decay (which here follows the step).

        w := w - lr m^ / (sqrt(v^) + eps),    m^ = m / (1 - beta1^t), v^ = v / (1 - beta2^t)

    Args:
        params, lr, betas, weight_decay: as in torch's Adam.
        eps: added to the corrected root, as in torch and unlike SPAM's.
        state_dtype: of m and v; None is the gradient's.
        rounding: "nearest" or "stochastic", of bfloat16 weights and moments.
        seed: of stochastic rounding.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        state_dtype: torch.dtype | str | None = None,
        rounding: str = "nearest",
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            delta_t=None,
            spike_rule="none",
            state_dtype=state_dtype,
            rounding=rounding,
            seed=seed,
        )

    def update_all(self) -> None:
        """One step; nothing to tell of it."""
        super().update_all()
        self.telemetry = None

    def _eps(self, group: Group, updates: int) -> float:
        """The same eps on the raw root: sqrt(v) + eps sqrt(1 - beta2^t)."""
        correction: float = math.sqrt(1.0 - group["betas"][1] ** updates)
        return super()._eps(group, updates) * correction
