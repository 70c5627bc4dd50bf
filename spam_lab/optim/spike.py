"""The spike rules that the fused arithmetic does not contain: the reference code's clip and the
paper's two alternatives, one operation after another.

This module owns clipping and nullifying rounding by rounding (for `eager.stepwise`), and the
Gaussian clip (Appendix J). Each takes flat tensors of one dtype, changes no gradient, and returns
the filtered gradient and the number of changed entries, a tensor: nothing here makes the host wait.
Each promises that a gradient that is not finite leaves as NaN or infinity: a rule against spikes
must not hide a training that has broken down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from spam_lab.optim.factors import Factors

Filtered = tuple[Tensor, Tensor]
"""The gradient after a rule, and how many of its entries the rule changed."""


def clip(grad: Tensor, exp_avg_sq: Tensor, theta: float, clip_at_zero_moment: bool) -> Filtered:
    """Spike-aware clipping: g := sign(g) sqrt(theta v) wherever g^2 > theta v.

    (Paper Section 3, Algorithm 1, in the reference code's order of operations.) v is the raw second
    moment before this step, not bias corrected.

    Args:
        grad: g.
        exp_avg_sq: v, of the same shape.
        theta: threshold on g^2 / v; the paper's 5000 stands for 71 times the usual magnitude.
        clip_at_zero_moment: whether an entry whose v is exactly 0 counts as a spike. It would
            become 0, v would stay 0, and the entry would freeze until the next reset: so in the
            paper's formula and in the reference code. False lets it pass.
    """
    limit, spikes = _spikes(grad, exp_avg_sq, theta, clip_at_zero_moment)
    clipped = torch.where(spikes, limit.sqrt_().mul_(grad.sign()), grad)
    return clipped.add_(grad, alpha=0.0), spikes.sum(dtype=torch.int32)


def nullify(grad: Tensor, exp_avg_sq: Tensor, theta: float, clip_at_zero_moment: bool) -> Filtered:
    """The same detector, but a spike becomes 0 (paper Table 12). Arguments as for `clip`."""
    _, spikes = _spikes(grad, exp_avg_sq, theta, clip_at_zero_moment)
    return grad * ~spikes, spikes.sum(dtype=torch.int32)


STEPWISE: dict[str, Callable[[Tensor, Tensor, float, bool], Filtered]] = {
    "clip": clip,
    "nullify": nullify,
}


def gaussian(
    grad: Tensor, moments: Mapping[str, Tensor], factors: Factors
) -> tuple[Tensor, Tensor | None]:
    """Clip g to G +- 3 delta, with running estimates that are updated in place (Table 11).

    The paper says only that G is a moving average and delta^2 a running mean, of unfiltered
    gradients. Here G decays with beta1 and delta^2 with beta2, like the m and v that they stand
    beside; both are bias corrected and see the gradient before it is clipped; the deviation is
    taken from the G before this step; both start again at every reset.

    Args:
        grad: g, in the compute dtype.
        moments: `grad_mean` and `grad_var`, raw G and delta^2.
        factors: the numbers of this step.

    Returns:
        The filtered gradient, and how many entries were clipped if the rule acts in this step.
    """
    beta1, beta2, age = factors.beta1, factors.beta2, factors.age
    raw_mean, raw_variance = (moments[n].to(grad.dtype) for n in ("grad_mean", "grad_var"))
    mean = raw_mean / (1.0 - beta1**age) if age else raw_mean
    filtered, count = grad, None
    if factors.clips:
        variance = raw_variance / (1.0 - beta2**age) if age else raw_variance
        bound = (variance * 9.0).sqrt_()
        if not factors.clip_at_zero_moment:
            torch.threshold_(bound, 0.0, math.inf)  # where it is not above 0; a NaN stays
        low, high = mean - bound, mean + bound
        count = ((grad < low) | (grad > high)).sum(dtype=torch.int32)
        filtered = torch.clamp(grad, low, high).add_(grad, alpha=0.0)
    deviation = grad - mean
    moments["grad_var"].copy_(
        (raw_variance * beta2).addcmul_(deviation, deviation, value=1.0 - beta2)
    )
    moments["grad_mean"].copy_((raw_mean * beta1).add_(grad, alpha=1.0 - beta1))
    return filtered, count


def _spikes(
    grad: Tensor, exp_avg_sq: Tensor, theta: float, clip_at_zero_moment: bool
) -> tuple[Tensor, Tensor]:
    """theta v, and where g^2 is above it."""
    limit = exp_avg_sq * theta
    spikes = grad * grad > limit
    if not clip_at_zero_moment:
        spikes &= exp_avg_sq != 0
    return limit, spikes
