"""ZClip: the joint norm of all gradients is clipped when it is an outlier among the past ones.

This module owns the running mean and variance of the joint norm and the limit that follows from
them (arXiv 2504.02507). It promises one factor for all gradients of a call, and that gradients that
are not finite stay so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.base import Group, State
from spam_lab.optim.baselines.transformed_adam import (
    TransformedAdam,
    global_norm,
    shrink,
    statistic,
)

_SMALL = 1e-6
"""The released code adds it to the deviation, and to the norm that it divides by."""


class ZClip(TransformedAdam):
    """ZClip before Adam (arXiv 2504.02507, Algorithm 1; released code bluorion-com/ZClip).

    With R the L2 norm of all gradients together:

        calls 1 to warmup_steps:   limit = max_norm; mean and var become the mean and the
                                   (population) variance of R so far
        afterwards:                z = (R - mean) / (sqrt(var) + 1e-6)
                                   c = mean + z_threshold^2 sqrt(var) / z if z > z_threshold, else R
                                   limit = min(c, max_norm)
                                   mean := alpha mean + (1 - alpha) c
                                   var  := alpha var + (1 - alpha) (c - mean)^2, with the new mean
        always:                    g := g limit / (R + 1e-6) if R > limit

    What enters the statistics is c, not the limit, and in the warm-up R itself: so does the
    released code; the paper does not say. (Written there as z_threshold sqrt(var) over
    z / z_threshold.) A call where no parameter has a gradient is not counted. The statistics belong
    to the whole optimizer: they are kept in the state of its first parameter, under the options of
    its first group. Decay and Adam are `TransformedAdam`'s.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of Adam's moments.
        eps: added to Adam's corrected root.
        weight_decay: decoupled.
        alpha: decay of mean and var (0.97).
        z_threshold: z above which a norm is an outlier (2.5).
        max_norm: largest norm, always (1.0); None for no such limit.
        warmup_steps: calls that only collect norms (25); at least 1. With 1, var starts at 0.

    Raises:
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
        alpha: float = 0.97,
        z_threshold: float = 2.5,
        max_norm: float | None = 1.0,
        warmup_steps: int = 25,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            alpha=alpha,
            z_threshold=z_threshold,
            max_norm=max_norm,
            warmup_steps=warmup_steps,
        )
        self._factor: Tensor | None = None

    def prepare(self) -> None:
        """The factor of this call, from the joint norm, which enters the statistics."""
        grads = [p.grad for p in self.parameters() if p.grad is not None and p.numel()]
        if not grads:
            return
        options = self.param_groups[0]
        first = next(self.parameters())
        length = global_norm(grads).to(first.device)
        limit = _observe(length, self.state[first], options)
        if options["max_norm"] is not None:
            limit = limit.clamp(max=options["max_norm"])
        self._factor = shrink(length, limit, _SMALL)

    def transform(self, grad: Tensor, state: State, group: Group) -> Tensor:
        """g times the factor of this call."""
        assert self._factor is not None
        return grad * self._factor.to(grad.device)


def _observe(length: Tensor, state: State, options: Group) -> Tensor:
    """Take the norm into the statistics; c, which is the norm itself unless it is an outlier."""
    if "norms" not in state:
        state["norms"] = 0
        state["norm_mean"], state["norm_variance"] = statistic(length), statistic(length)
    mean, variance = state["norm_mean"], state["norm_variance"]
    state["norms"] += 1
    clipped = length
    if state["norms"] <= options["warmup_steps"]:
        # Welford's recursion: mean and variance of all norms so far, without a buffer of them.
        share = 1 / state["norms"]
        moved = mean + share * (length - mean)
        spread = variance + share * ((length - mean) * (length - moved) - variance)
    else:
        alpha, threshold = options["alpha"], options["z_threshold"]
        deviation = variance.sqrt()
        z = (length - mean) / (deviation + _SMALL)
        clipped = torch.where(z > threshold, mean + threshold**2 * deviation / z, length)
        moved = alpha * mean + (1 - alpha) * clipped
        spread = alpha * variance + (1 - alpha) * (clipped - moved).square()
    state["norm_mean"], state["norm_variance"] = moved, spread
    return clipped
