"""What happens to a gradient entry that is far above its own history.

This module owns the spike rules: SPAM's clip, the paper's two alternatives (nullifying, Section 2
and Appendix K; the Gaussian clip, Appendix J), and the reference code's clip rounding by rounding.
Each takes flat tensors of one dtype, changes none of them, and returns the filtered gradient and
the number of changed entries, a tensor: nothing here makes the host wait. Each promises that a
gradient that is not finite leaves as NaN or infinity: a rule against spikes must not hide a
training that has broken down.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Filtered = tuple[Tensor, Tensor]
"""The gradient after a rule, and how many of its entries the rule changed."""
ClipRule = Callable[[Tensor, Tensor, float, bool], Filtered]
"""`(grad, exp_avg_sq, theta, clip_at_zero_moment)` to both."""
_COUNT = torch.float32
"""Sums of ones are exact in it below 2^24, which is as many entries as a rule is given."""


def clip(grad: Tensor, exp_avg_sq: Tensor, theta: float, clip_at_zero_moment: bool) -> Filtered:
    """Spike-aware clipping: g := sign(g) sqrt(theta v) wherever g^2 > theta v.

    (Paper Section 3, Algorithm 1.) v is the raw second moment before this step, not bias
    corrected. The rule equals clamping g to +-sqrt(theta v), which needs no boolean indexing.

    Args:
        grad: g.
        exp_avg_sq: v, of the same shape.
        theta: threshold on g^2 / v; the paper's 5000 stands for 71 times the usual magnitude.
        clip_at_zero_moment: whether an entry whose v is exactly 0 counts as a spike. It would
            become 0, v would stay 0, and the entry would freeze until the next reset: so in the
            paper's formula and in the reference code. False lets it pass.
    """
    bound = _bound(exp_avg_sq, theta, clip_at_zero_moment)
    magnitude = grad.abs()
    count = torch.gt(magnitude, bound, out=magnitude).sum(dtype=_COUNT)
    clipped = torch.neg(bound, out=magnitude)
    torch.clamp(grad, clipped, bound, out=clipped)
    return _keep_broken(clipped, grad), count


def clip_stepwise(
    grad: Tensor, exp_avg_sq: Tensor, theta: float, clip_at_zero_moment: bool
) -> Filtered:
    """The same rule in the order of operations of the reference code, rounding each one."""
    limit = exp_avg_sq * theta
    spikes = grad * grad > limit
    if not clip_at_zero_moment:
        spikes &= exp_avg_sq != 0
    clipped = torch.where(spikes, limit.sqrt_().mul_(grad.sign()), grad)
    return _keep_broken(clipped, grad), spikes.sum()


def nullify(grad: Tensor, exp_avg_sq: Tensor, theta: float, clip_at_zero_moment: bool) -> Filtered:
    """The same detector, but a spike becomes 0 (paper Table 12). Arguments as for `clip`."""
    bound = _bound(exp_avg_sq, theta, clip_at_zero_moment)
    spikes = grad.abs()
    torch.gt(spikes, bound, out=spikes)
    return grad * (1 - spikes), spikes.sum(dtype=_COUNT)


def gaussian_clip(
    grad: Tensor, mean: Tensor, variance: Tensor, clip_at_zero_moment: bool
) -> Filtered:
    """Clip g to G +- 3 delta, with G and delta^2 running estimates (paper Appendix J, Table 11).

    Args:
        grad: g.
        mean: G, the running mean of g before this step, bias corrected.
        variance: delta^2, the running mean of (g - G)^2 before this step, bias corrected.
        clip_at_zero_moment: whether an entry whose delta^2 is exactly 0 is clipped too.
    """
    bound = _bound(variance, 9.0, clip_at_zero_moment)
    low, high = mean - bound, mean + bound
    count = (grad < low).sum() + (grad > high).sum()
    return _keep_broken(torch.clamp(grad, low, high), grad), count


def _bound(moment: Tensor, factor: float, clip_at_zero_moment: bool) -> Tensor:
    """sqrt(factor * moment); where the moment is 0, infinity if such an entry is exempt."""
    bound = (moment * factor).sqrt_()
    if not clip_at_zero_moment:
        torch.threshold_(bound, 0.0, math.inf)  # where it is not above 0; a NaN stays
    return bound


def _keep_broken(filtered: Tensor, grad: Tensor) -> Tensor:
    """`filtered`, but NaN wherever the gradient is infinite, which a clamp would have hidden."""
    return filtered.add_(grad, alpha=0.0)
