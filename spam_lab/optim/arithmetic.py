"""The arithmetic of one SPAM step, as one function of flat tensors.

This module owns the formula that the compiled kernels are made of (`compiled`), and the numbers
that it takes. It computes in float32 (float64 for float64 weights) and rounds once, at the end.
`in_place` writes the same formula for the eager path; the two are equal to the bit on a CPU, which
the tests hold them to.

    l := theta v, or `at_zero` where v is 0
    v := beta2 v + (1 - beta2) min(g^2, l)
    g := sign(g) kappa sqrt(v) where g^2 > l                 spike rule "clip"
    m := beta1 m + (1 - beta1) g
    w := w - rate * m / (sqrt(v) + eps)
    w := w - decay w

(Paper, Algorithm 1, with the hats that it defines but does not use.) `rate` is
lr phi sqrt(1 - beta2^b) / (1 - beta1^b), `decay` is lr times the weight decay.

The paper clips first, g := sign(g) sqrt(theta v), and then takes g into v. For a clipped entry that
makes v := (beta2 + (1 - beta2) theta) v, so sqrt(theta v) of the old v is kappa sqrt(v) of the new
one, with kappa^2 = theta / (beta2 + (1 - beta2) theta): one square root an entry serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spam_lab.optim import pairs

NUMBERS = (
    *("beta1", "rest1", "beta2", "rest2"),
    *("theta", "at_zero", "kappa", "rate", "eps", "decay"),
)
"""The numbers of a step, in the order of the tensor that holds them. rest is 1 - beta. theta is
infinite while nothing may be clipped. at_zero is the limit of an entry without a second moment: 0
where it counts as a spike, infinite where it passes."""


@dataclass(frozen=True)
class Form:
    """What is fixed when a kernel is compiled.

    Attributes:
        rule: clip | nullify | none.
        rounding: nearest | stochastic, of bfloat16 weights and moments.
        decays: whether there is weight decay.
    """

    rule: str
    rounding: str
    decays: bool


class Updated(NamedTuple):
    """What a step leaves: new weights and moments, not yet rounded, and which entries spiked."""

    weights: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    spiked: Tensor | None


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that a step on weights of `dtype` computes in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def updated(
    rule: str,
    decays: bool,
    weights: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    numbers: Tensor,
    bitwise: bool = False,
) -> Updated:
    """One step of entries that train: see the module. Arguments are of one shape, any dtype.

    Args:
        rule: clip | nullify | none.
        decays: whether there is weight decay.
        weights, grad: w and g.
        exp_avg, exp_avg_sq: the raw moments m and v.
        numbers: `NUMBERS`, in the compute dtype.
        bitwise: whether spikes are found and clipped by the bits of float32 (`pairs`), which gives
            the same numbers. `spiked` is then -1 for true.
    """
    beta1, rest1, beta2, rest2, theta, at_zero, kappa, rate, eps, decay = numbers.unbind()
    g, w = grad.to(numbers.dtype), weights.to(numbers.dtype)
    m, v = exp_avg.to(numbers.dtype), exp_avg_sq.to(numbers.dtype)
    square, spiked = g * g, None
    choose, zero = pairs.chosen if bitwise else torch.where, torch.zeros_like(square)
    if rule != "none":
        limit = v * theta
        if bitwise:
            spiked = pairs.exceeds(square, limit, at_zero)
        else:
            limit = torch.where(limit > 0, limit, at_zero)
            spiked = square > limit
        square = choose(spiked, limit if rule == "clip" else zero, square)
    m, v = m * beta1, v * beta2 + square * rest2
    root = v.sqrt()
    if spiked is not None:
        clipped = root * kappa
        if rule != "clip":
            replacement = zero
        elif bitwise:
            replacement = pairs.with_sign_of(clipped, g)
        else:
            replacement = torch.where(g < 0, -clipped, clipped)
        # The product is 0, or NaN for an infinite gradient, which a rule against spikes must not
        # hide: it is a training that has broken down. Added to m, it need not wait for the root.
        m = m + g * 0.0
        g = choose(spiked, replacement, g)
    m = m + g * rest1
    w = w - m / (root + eps) * rate
    return Updated(w - w * decay if decays else w, m, v, spiked)


def rounded(value: Tensor, dtype: torch.dtype, noise: Tensor | None) -> Tensor:
    """`value` in `dtype`: to nearest, or stochastically to bfloat16.

    Stochastic rounding goes up with the probability that the value is on the way up, so it is
    right on average: small updates of bfloat16 weights are not lost but made now and then.

    Args:
        value: float32, or wider for a rounding to nearest.
        dtype: the dtype wanted.
        noise: 16 random bits an entry, int32; None rounds to nearest.
    """
    if noise is None or dtype != torch.bfloat16:
        return value.to(dtype)
    bits = (value.view(torch.int32) + noise) & -65536
    return torch.where(value.isfinite(), bits.view(torch.float32), value).to(dtype)


def noises(first: int, count: int, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three times 16 random bits for each of `count` entries, int32.

    Args:
        first: the position of the first entry among the tensor's moments.
        count: how many entries.
        seeds: two integers below 2^31, int64.
    """
    low = 0xFFFFFFFF
    one, other = seeds.unbind()
    x = torch.arange(count, device=seeds.device) + first
    x = (x ^ one) & low
    words = []
    for _ in range(2):
        x = ((x >> 16) ^ x ^ other) * 0x45D9F3B & low
        x = ((x >> 16) ^ x) * 0x45D9F3B & low
        words.append((x >> 16) ^ x)
    parts = (words[0] & 0xFFFF, words[0] >> 16, words[1] & 0xFFFF)
    return tuple(part.to(torch.int32) for part in parts)  # type: ignore[return-value]
