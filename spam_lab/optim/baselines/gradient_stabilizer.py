"""GradientStabilizer: every gradient keeps its direction and gets a length from past norms.

This module owns the normalisation of arXiv 2502.17055 from version 3 on, which put it in the place
of Stable-SPAM. It promises that a gradient that is not finite reaches Adam as it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.base import Group, State
from spam_lab.optim.baselines.transformed_adam import TransformedAdam, norm, statistic

_FLOOR = 1e-12
"""The released code adds it to the root of V."""


class GradientStabilizer(TransformedAdam):
    """GradientStabilizer before Adam (arXiv 2502.17055v4; TianjinYellow/GradientStabilizer).

    Per tensor, with k the number of gradients counted:

        R  = |g|_2
        M := gamma1 M + (1 - gamma1) R
        V := gamma2 V + (1 - gamma2) R^2
        h  = rho g / R

        correction="code":   rho = M / (1 - gamma1^k) / (sqrt(V / (1 - gamma2^k)) + 1e-12)
        correction="paper":  rho = M / (sqrt(V) + 1e-12), which starts at
                             (1 - gamma1) / sqrt(1 - gamma2): 12.6 with the defaults

    A gradient whose norm is 0 or not finite changes no statistic and goes to Adam as it is (so does
    the released code): Inf and NaN reach the weights. The paper prints no 1e-12; without it, a norm
    whose square is below float32 would turn into Inf. Decay and Adam are `TransformedAdam`'s.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of Adam's moments.
        eps: added to Adam's corrected root.
        weight_decay: decoupled.
        gamma1: decay of M (0.6).
        gamma2: decay of V (0.999).
        correction: "code" or "paper".

    Raises:
        ValueError: for another value of `correction`.
        RuntimeError: for sparse gradients and complex parameters.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        gamma1: float = 0.6,
        gamma2: float = 0.999,
        correction: str = "code",
    ) -> None:
        if correction not in ("code", "paper"):
            raise ValueError(f"correction={correction!r} is not allowed: code or paper")
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            gamma1=gamma1,
            gamma2=gamma2,
            correction=correction,
        )

    def transform(self, grad: Tensor, state: State, group: Group) -> Tensor:
        """g at the length rho."""
        if "mean_norm" not in state:
            for key in ("mean_norm", "mean_square", "counted"):
                state[key] = statistic(grad)
        gamma1, gamma2 = group["gamma1"], group["gamma2"]
        length = norm(grad)
        counts = length.isfinite() & (length > 0)

        # Whether a gradient counts is known on the device alone, and so is their number.
        state["counted"] = state["counted"] + counts
        for key, value, gamma in (
            ("mean_norm", length, gamma1),
            ("mean_square", length.square(), gamma2),
        ):
            moved = gamma * state[key] + (1 - gamma) * value
            state[key] = torch.where(counts, moved, state[key])
        mean, square = state["mean_norm"], state["mean_square"]
        if group["correction"] == "code":
            mean = mean / _weight(gamma1, state["counted"])
            square = square / _weight(gamma2, state["counted"])
        target = mean / (square.sqrt() + _FLOOR)
        return grad * torch.where(counts, target / length, 1.0)


def _weight(gamma: float, count: Tensor) -> Tensor:
    """1 - gamma^count, without the digits that float32 loses where gamma^count is almost 1."""
    if gamma == 0:
        return torch.ones_like(count)
    return -torch.expm1(count * math.log(gamma))
