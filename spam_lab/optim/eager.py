"""One SPAM step in plain torch operations, on any device and for every option.

This module owns the two arithmetics. `fused` is `arithmetic.updated` a stretch at a time: float32
inside the step (float64 for float64 weights), one rounding at the end; where a compiled kernel
exists, it gives the same numbers faster. `stepwise` rounds every operation to the dtype of the
moments, as the reference code does. In float32 the two agree to rounding; in bfloat16 they are two
different optimizers (there, 0.999 v rounds back to v, so that v never falls). Both promise never to
make the host wait for the device, and to leave the gradients as they found them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spam_lab.optim import arithmetic, in_place, spike
from spam_lab.optim.entries import Entries, Stretch
from spam_lab.optim.factors import Factors
from spam_lab.optim.in_place import Workspace


def fused(
    entries: Entries, factors: Factors, noise: tuple[int, int] | None, space: Workspace
) -> list[Tensor]:
    """One step, rounded once at the end. Returns the counts of entries that the rule changed.

    Args:
        entries: what trains; weights and moments are updated in place.
        factors: the numbers of this step.
        noise: the seeds of stochastic rounding, two integers below 2^31; None rounds to nearest.
        space: buffers, made once.
    """
    dtype = arithmetic.compute_dtype(entries.param.dtype)
    numbers = factors.numbers(dtype, entries.param.device)
    seeds = None if noise is None else torch.tensor(noise, device=entries.param.device)
    counts = []
    for part in entries.stretches():
        moments, rule, grad = part.moments, factors.spike_rule, part.chosen
        if rule == "gaussian":
            rule = "none"
            grad, count = spike.gaussian(grad.to(dtype), moments, factors)
            counts += [] if count is None else [count]
        elif not factors.clips:
            rule = "none"
        exp_avg, exp_avg_sq = moments["exp_avg"], moments["exp_avg_sq"]
        decays = factors.weight_decay > 0
        weights = part.weights
        exempt = not factors.clip_at_zero_moment
        new = in_place.updated(
            rule, decays, exempt, weights, grad, exp_avg, exp_avg_sq, numbers, space
        )
        bits: tuple[Tensor | None, ...] = (None, None, None)
        if seeds is not None:
            bits = arithmetic.noises(part.first, weights.numel(), seeds)
        _step_unselected(part, factors)
        part.write(arithmetic.rounded(new.weights, part.param.dtype, bits[0]))
        for moment, value, noise_bits in (
            (exp_avg, new.exp_avg, bits[1]),
            (exp_avg_sq, new.exp_avg_sq, bits[2]),
        ):
            if moment is not value:
                moment.copy_(arithmetic.rounded(value, moment.dtype, noise_bits))
        if new.spiked is not None:
            counts.append(new.spiked.sum(dtype=torch.int32))
    return counts


def stepwise(entries: Entries, factors: Factors) -> list[Tensor]:
    """The same step, every operation rounded to the dtype of the moments. Returns the counts."""
    counts = []
    for part in entries.stretches():
        exp_avg, exp_avg_sq = part.moments["exp_avg"], part.moments["exp_avg_sq"]
        grad, count = part.chosen.to(exp_avg.dtype), None
        if factors.spike_rule == "gaussian":
            grad, count = spike.gaussian(grad, part.moments, factors)
        elif factors.clips and factors.spike_rule != "none":
            grad, count = spike.STEPWISE[factors.spike_rule](
                grad, exp_avg_sq, factors.theta, factors.clip_at_zero_moment
            )
        counts += [] if count is None else [count]
        exp_avg.mul_(factors.beta1).add_(grad, alpha=1.0 - factors.beta1)
        exp_avg_sq.mul_(factors.beta2).addcmul_(grad, grad, value=1.0 - factors.beta2)
        denominator = exp_avg_sq.sqrt().add_(factors.eps)
        _step_unselected(part, factors)
        weights = part.weights
        _subtract(weights, exp_avg / denominator, factors.rate)
        if factors.weight_decay:
            _subtract(weights, weights, factors.decay)
        part.write(weights)
    return counts


def _step_unselected(part: Stretch, factors: Factors) -> None:
    """What `unselected` asks of entries outside the mask: w := w - lr phi g, or - lr phi sign(g).

    All entries of the stretch move; the selected ones, whose weights were read before, are then
    written over. The paper calls it keeping their gradients and does not define it (Appendix F);
    "sign" is the definition of FRUGAL (arXiv 2411.07837). Without a second moment, no spike is
    detected.
    """
    if part.positions is None or factors.unselected == "freeze":
        return
    dtype = arithmetic.compute_dtype(part.param.dtype)
    direction = part.grad
    if factors.unselected == "sign":
        direction = direction.sign() + direction * 0.0  # the sign of a NaN is 0, and hides it
    moved = part.param.to(dtype) - direction.to(dtype) * (factors.lr * factors.warmup_scale)
    if factors.weight_decay:
        moved -= moved * factors.decay
    part.param.copy_(moved)


def _subtract(param: Tensor, direction: Tensor, rate: float | Tensor) -> None:
    """w := w - rate * direction, rounded once unless the rate is a tensor."""
    if isinstance(rate, Tensor):
        param.sub_(direction * rate)
    else:
        param.add_(direction, alpha=-rate)
