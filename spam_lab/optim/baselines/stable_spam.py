"""Stable-SPAM: gradients clipped and normalised by their own history, and momentum reset.

This module owns AdaClip, AdaGN and MoRet (arXiv 2502.17055, versions 1 and 2), each in two ways of
counting: as in the released code, and with counters that agree with what they count. It promises
that nothing of a gradient that is not finite is lost: Adam gets it, or NaN.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.base import Group, State
from spam_lab.optim.baselines.transformed_adam import TransformedAdam, norm, statistic


class StableSPAM(TransformedAdam):
    """Stable-SPAM (arXiv 2502.17055; released code TianjinYellow/StableSPAM).

    Per tensor, with k the number of gradients counted and s the scale of the momentum:

        AdaClip  x  = max |g|,  T := gamma3 T + (1 - gamma3) x,  T^ = T / (1 - gamma3^k)
                 h  = g T^ / x where |g| > T^, else g
        AdaGN    n  = |h|_2
                 mu := s gamma1 mu + (1 - s gamma1) n,    mu^ = mu / (1 - (s gamma1)^k)
                 nu := gamma2 nu + (1 - gamma2) n^2,      nu^ = nu / (1 - gamma2^k)
                 h := h / n * mu^ / (sqrt(nu^) + eps)     unless n = 0
        MoRet    m = v = 0 at every call that `delta_t` divides
        Adam     on h, with s beta1 for beta1 and b = updates since the reset

        s = eta_min + (1 - eta_min) (1 + cos(pi t / (total_steps + 1))) / 2 at call t

    `counters` tells what k, b and the reset mean:

    * "repaired": k counts all gradients of the tensor, for ever; m and v are zero before the reset
      call's update, and b counts their updates from 1; s stays at eta_min after total_steps.
    * "published": k = b. The reset call uses the old m and v, with b = 1, and leaves zeros, so that
      b = 2 at their first update. T, mu and nu are old but corrected as if new, which switches
      AdaClip off and makes h several times too small after each reset. s rises again after
      total_steps.

    Choices where neither says: a tensor of zeros counts in T, mu and nu (as released). A tensor
    without a gradient at the reset call is reset at the next one that it sees (as released). The
    correction of mu takes the present s for all the past (as released). The three statistics are
    float32, while the released ones have the gradient's dtype, where 0.99999 does not move them.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of Adam's moments.
        eps: added to Adam's corrected root, and to sqrt(nu^).
        weight_decay: decoupled, before the step.
        gamma1: decay of the mean norm (README, BF16: 0.85).
        gamma2: decay of the mean squared norm (README, BF16: 0.99999).
        gamma3: decay of the mean largest entry (0.999).
        delta_t: calls between resets (README, BF16: 1000); None never resets.
        total_steps: calls of the cosine of s; None keeps s = 1.
        eta_min: where the cosine ends (0.5).
        counters: "repaired" or "published".

    Raises:
        ValueError: for another value of `counters`.
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
        gamma1: float = 0.85,
        gamma2: float = 0.99999,
        gamma3: float = 0.999,
        delta_t: int | None = 1000,
        total_steps: int | None = None,
        eta_min: float = 0.5,
        counters: str = "repaired",
    ) -> None:
        if counters not in ("repaired", "published"):
            raise ValueError(f"counters={counters!r} is not allowed: repaired or published")
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            gamma1=gamma1,
            gamma2=gamma2,
            gamma3=gamma3,
            delta_t=delta_t,
            total_steps=total_steps,
            eta_min=eta_min,
            counters=counters,
            calls=0,
        )

    def prepare(self) -> None:
        """Count the call, in every group, so that the state dict has it."""
        # A group that came in mid-training starts at 0.
        calls = 1 + max(group["calls"] for group in self.param_groups)
        for group in self.param_groups:
            group["calls"] = calls

    def update(self, param: Tensor, grad: Tensor, state: State, group: Group) -> None:
        """AdaClip and AdaGN, the reset where it is due, then Adam."""
        filtered = self.transform(grad, state, group)
        due = group["delta_t"] is not None and group["calls"] % group["delta_t"] == 0
        published = group["counters"] == "published"
        if due and "exp_avg" in state:
            state["step"] = 0
            if not published:
                _zero_moments(state)
        self.adam_step(param, filtered, state, group, momentum_scale(group))
        if due and published:
            _zero_moments(state)
            state["gradients"] = 1

    def transform(self, grad: Tensor, state: State, group: Group) -> Tensor:
        """AdaClip, then AdaGN."""
        if "gradients" not in state:
            state["gradients"] = 0
            for key in ("largest", "mean_norm", "mean_square"):
                state[key] = statistic(grad)
        state["gradients"] += 1
        count = state["gradients"]
        size = grad.abs()
        largest = size.amax().to(state["largest"].dtype)
        level = _average(state, "largest", largest, group["gamma3"], count)
        clipped = torch.where(size > level, grad * (level / largest), grad)
        length = norm(clipped)
        gamma1 = group["gamma1"] * momentum_scale(group)
        mean = _average(state, "mean_norm", length, gamma1, count)
        square = _average(state, "mean_square", length.square(), group["gamma2"], count)
        wanted = mean / (square.sqrt() + group["eps"])
        # A norm of NaN leaves the gradient as it is, NaN included.
        return clipped * torch.where(length > 0, wanted / length, 1.0)


def momentum_scale(group: Group) -> float:
    """s at this call: what gamma1 and beta1 are multiplied with."""
    total, floor = group["total_steps"], group["eta_min"]
    if total is None:
        return 1.0
    call: int = group["calls"]
    elapsed = call if group["counters"] == "published" else min(call, total + 1)
    scale: float = floor + (1 - floor) * (1 + math.cos(math.pi * elapsed / (total + 1))) / 2
    return scale


def _average(state: State, key: str, value: Tensor, decay: float, count: int) -> Tensor:
    """Take `value` into the average under `key`; the average, corrected for `count` values."""
    state[key] = decay * state[key] + (1 - decay) * value
    corrected: Tensor = state[key] / (1 - decay**count)
    return corrected


def _zero_moments(state: State) -> None:
    state["exp_avg"].zero_()
    state["exp_avg_sq"].zero_()
