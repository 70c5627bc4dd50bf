"""`arithmetic.updated` operation by operation, in buffers that are made once.

This module owns the eager form of the formula. It promises the numbers of the other form, to the
bit, and no memory taken in a step beyond its buffers: asking the system for fresh pages would cost
more than the arithmetic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spam_lab.optim.arithmetic import Updated


class Workspace:
    """Buffers by name, as long as the longest stretch that has asked for them."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def get(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A buffer of the length of `like`, on its device; what it holds is arbitrary."""
        key = (name, dtype, like.device)
        held = self._buffers.get(key)
        if held is None or held.numel() < like.numel():
            held = self._buffers[key] = torch.empty(like.numel(), dtype=dtype, device=like.device)
        return held[: like.numel()]

    def widened(self, name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
        """`values` themselves if they have the dtype, else a copy in a buffer."""
        return values if values.dtype == dtype else self.get(name, values, dtype).copy_(values)


def updated(
    rule: str,
    decays: bool,
    exempt: bool,
    weights: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    numbers: Tensor,
    space: Workspace,
) -> Updated:
    """See `arithmetic.updated`. Weights and moments of the compute dtype are updated in place.

    Args:
        exempt: whether an entry whose second moment is 0 passes, for which `arithmetic` has a
            number; the rest as there.
        space: the buffers.

    Returns:
        Those tensors, or buffers for those of another dtype. All are flat.
    """
    beta1, rest1, beta2, rest2, theta, _, kappa, rate, eps, decay = numbers.unbind()
    dtype = numbers.dtype
    g, w = space.widened("grad", grad, dtype), space.widened("weights", weights, dtype)
    m, v = space.widened("exp_avg", exp_avg, dtype), space.widened("exp_avg_sq", exp_avg_sq, dtype)
    first, second = space.get("first", g, dtype), space.get("second", g, dtype)
    square, spiked = torch.mul(g, g, out=first), None
    if rule != "none":
        spiked = space.get("spiked", g, torch.bool)
        limit = torch.mul(v, theta, out=second)
        if exempt:
            torch.threshold_(limit, 0.0, math.inf)
        torch.gt(square, limit, out=spiked)
        if rule == "clip":
            torch.minimum(square, limit, out=square)
        else:
            square.masked_fill_(spiked, 0.0)
    v.mul_(beta2).add_(square.mul_(rest2))
    m.mul_(beta1)
    root = _exact_root(v, second, space)
    if spiked is not None:
        if rule == "clip":
            clipped = torch.mul(root, kappa, out=first)
            torch.where(spiked, torch.copysign(clipped, g, out=clipped), g, out=clipped)
        else:
            clipped = first.copy_(g).masked_fill_(spiked, 0.0)
        m.add_(torch.mul(g, 0.0, out=space.get("third", g, dtype)))
        g = clipped
    m.add_(torch.mul(g, rest1, out=first))
    w.sub_(torch.div(m, root.add_(eps), out=first).mul_(rate))
    if decays:
        w.sub_(torch.mul(w, decay, out=first))
    return Updated(w, m, v, spiked)


def _exact_root(values: Tensor, out: Tensor, space: Workspace) -> Tensor:
    """The correctly rounded square root.

    torch hands long float32 tensors to a vector library, some of which miss the last bit for one
    value in six. Through float64 the result is exact: no root of a float32 comes closer than
    2^-50 to the middle of two float32.
    """
    if values.dtype == torch.float64:
        return torch.sqrt(values, out=out)
    return out.copy_(space.get("wide", values, torch.float64).copy_(values).sqrt_())
