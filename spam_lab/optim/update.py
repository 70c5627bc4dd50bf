"""The arithmetic of one SPAM step, on flat tensors.

This module owns what happens to weights, gradients and moments once it is known which entries
train and what the step's factors are; it knows nothing of masks, resets or parameter groups. It
offers the same update twice: `fused` computes in float32 (float64 for float64 parameters) and
rounds once at the end; `stepwise` rounds every operation to the dtype of the moments, as the
reference code does. In float32 the two agree to rounding; in bfloat16 they are two different
optimizers (there, 0.999 v rounds back to v, so that v never falls). Both promise never to make
the host wait for the device, and to leave the gradients as they found them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from spam_lab.optim import spike

_CHUNK = {"cpu": 1 << 17, "cuda": 1 << 24}
"""Entries handled together: temporaries stay in a core's cache, or small beside a GPU's memory."""


_STATISTICS = ("grad_mean", "grad_var")
_TENSORS = ("param", "grad", "exp_avg", "exp_avg_sq", *_STATISTICS)


@dataclass
class Entries:
    """The entries of one parameter that train in this step: one-dimensional tensors of one length.

    Attributes:
        param, grad: w and g.
        exp_avg, exp_avg_sq: the raw moments m and v.
        updates: the exponent of the bias correction, this step included; infinity switches it off.
        age: updates of the moments since they were last zeroed, this step excluded.
        grad_mean, grad_var: raw G and delta^2 of the Gaussian rule; None for other rules.
    """

    param: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    updates: float
    age: int
    grad_mean: Tensor | None = None
    grad_var: Tensor | None = None

    @property
    def size(self) -> int:
        """How many entries."""
        return self.grad.numel()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        named = {name: getattr(self, name) for name in _TENSORS}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Factors:
    """What all entries of a parameter group share in this step.

    Attributes:
        lr: the scheduled learning rate alpha.
        warmup_scale: phi, the factor on it after a reset.
        beta1, beta2, eps: as in the paper; eps is added to the raw sqrt(v).
        weight_decay: decoupled; multiplies lr, not phi.
        spike_rule: clip | nullify | gaussian | none.
        clips: whether the rule acts in this step (the grace is over).
        theta, clip_at_zero_moment: see `spike.clip`.
    """

    lr: float | Tensor
    warmup_scale: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    spike_rule: str
    clips: bool
    theta: float
    clip_at_zero_moment: bool

    @property
    def filters(self) -> bool:
        """Whether the spike rule has anything to do: the Gaussian one always keeps statistics."""
        return self.spike_rule == "gaussian" or (self.clips and self.spike_rule != "none")


def fused(entries: Sequence[Entries], factors: Factors) -> list[Tensor]:
    """One step in float32 or wider, rounded once at the end.

        g := spike rule(g, v)
        m := beta1 m + (1 - beta1) g
        v := beta2 v + (1 - beta2) g^2
        w := w - lr phi * sqrt(1 - beta2^b) / (1 - beta1^b) * m / (sqrt(v) + eps)
        w := w - lr weight_decay w

    (Algorithm 1; like the reference code, with the hats that the paper defines but does not use.)
    The middle three lines are torch's own fused Adam kernel, whose epsilon is added to the bias
    corrected sqrt(v): it is given eps / sqrt(1 - beta2^b).

    Returns:
        The counts of entries that the spike rule changed.
    """
    counts = []
    for chunk in _chunks(entries):
        wide = [_widened(part) for part in chunk]
        grads = [part.grad for part in wide]
        if factors.filters:
            together = _joined(wide)
            filtered, count = _filter(together, factors, spike.clip)
            counts += [] if count is None else [count]
            grads = _split(filtered, wide)
            if factors.spike_rule == "gaussian":
                _split_statistics(together, wide)
        _adam(wide, grads, factors)
        for part, computed in zip(chunk, wide, strict=True):
            _write_back(part, computed)
    return counts


def stepwise(entries: Sequence[Entries], factors: Factors) -> list[Tensor]:
    """The same step, every operation rounded to the dtype of the moments. Returns the counts."""
    counts = []
    for part in (piece for whole in entries for piece in _pieces(whole)):
        dtype = part.exp_avg.dtype
        grad, count = _filter(replace(part, grad=part.grad.to(dtype)), factors, spike.clip_stepwise)
        counts += [] if count is None else [count]
        part.exp_avg.mul_(factors.beta1).add_(grad, alpha=1.0 - factors.beta1)
        part.exp_avg_sq.mul_(factors.beta2).addcmul_(grad, grad, value=1.0 - factors.beta2)
        denominator = part.exp_avg_sq.sqrt().add_(factors.eps)
        correction = math.sqrt(1.0 - factors.beta2**part.updates)
        correction /= 1.0 - factors.beta1**part.updates
        rate = factors.lr * correction * factors.warmup_scale
        _subtract(part.param, part.exp_avg / denominator, rate)
        if factors.weight_decay:
            _subtract(part.param, part.param, factors.lr * factors.weight_decay)
    return counts


ARITHMETIC = {"fused": fused, "stepwise": stepwise}


def step_without_moments(param: Tensor, grad: Tensor, rule: str, factors: Factors) -> None:
    """What `unselected` asks of entries outside the mask: w := w - lr phi g, or - lr phi sign(g).

    The paper calls it keeping their gradients and does not define it (Appendix F); "sign" is the
    definition of FRUGAL (arXiv 2411.07837). Without a second moment, no spike is detected.
    """
    wide = param.to(_compute_dtype(param))
    direction = grad.sign() if rule == "sign" else grad
    wide = wide - direction.to(wide.dtype) * (factors.lr * factors.warmup_scale)
    if factors.weight_decay:
        wide -= wide * (factors.lr * factors.weight_decay)
    param.copy_(wide)


def _adam(wide: Sequence[Entries], grads: Sequence[Tensor], factors: Factors) -> None:
    """Adam with eps on the raw sqrt(v), then decoupled weight decay; in place."""
    updates, device = wide[0].updates, wide[0].param.device
    rate = factors.lr * factors.warmup_scale
    if isinstance(rate, Tensor):
        rate = rate.to(device)
    params = [part.param for part in wide]
    torch._fused_adam_(  # type: ignore[call-overload]  # it takes either kind of rate
        params,
        grads,
        [part.exp_avg for part in wide],
        [part.exp_avg_sq for part in wide],
        [],
        [torch.full((), updates, dtype=torch.float32, device=device)] * len(wide),
        lr=rate,
        beta1=factors.beta1,
        beta2=factors.beta2,
        weight_decay=0.0,
        eps=factors.eps / math.sqrt(1.0 - factors.beta2**updates),
        amsgrad=False,
        maximize=False,
    )
    if factors.weight_decay:
        # Not params * (1 - rate): a rate far below 1 would be rounded away in that difference.
        decayed = torch._foreach_mul(params, factors.lr * factors.weight_decay)
        torch._foreach_sub_(params, decayed)


def _filter(part: Entries, factors: Factors, clip: spike.ClipRule) -> tuple[Tensor, Tensor | None]:
    """The gradient after the spike rule, and how many entries it changed if it acts now."""
    if not factors.filters:
        return part.grad, None
    if factors.spike_rule == "gaussian":
        return _filter_gaussian(part, factors)
    rule = clip if factors.spike_rule == "clip" else spike.nullify
    return rule(part.grad, part.exp_avg_sq, factors.theta, factors.clip_at_zero_moment)


def _filter_gaussian(part: Entries, factors: Factors) -> tuple[Tensor, Tensor | None]:
    """The Gaussian rule, and its running statistics, updated in place.

    The paper says only that G is a moving average and delta^2 a running mean, of unfiltered
    gradients. Here G decays with beta1 and delta^2 with beta2, like the m and v that they stand
    beside; both are bias corrected and see the gradient before it is clipped; the deviation is
    taken from the G before this step; both start again at every reset.
    """
    assert part.grad_mean is not None and part.grad_var is not None
    beta1, beta2, age = factors.beta1, factors.beta2, part.age
    mean = part.grad_mean / (1.0 - beta1**age) if age else part.grad_mean
    filtered, count = part.grad, None
    if factors.clips:
        variance = part.grad_var / (1.0 - beta2**age) if age else part.grad_var
        filtered, count = spike.gaussian_clip(
            part.grad, mean, variance, factors.clip_at_zero_moment
        )
    deviation = part.grad - mean
    part.grad_var.mul_(beta2).addcmul_(deviation, deviation, value=1.0 - beta2)
    part.grad_mean.mul_(beta1).add_(part.grad, alpha=1.0 - beta1)
    return filtered, count


def _chunks(entries: Iterable[Entries]) -> Iterator[list[Entries]]:
    """Runs of entries that one kernel can take: alike, and together no longer than `_CHUNK`."""
    for _, alike in groupby(entries, _likeness):
        chunk: list[Entries] = []
        length = 0
        for whole in alike:
            for part in _pieces(whole):
                if chunk and length + part.size > _limit(part):
                    yield chunk
                    chunk, length = [], 0
                chunk.append(part)
                length += part.size
        if chunk:
            yield chunk


def _likeness(part: Entries) -> tuple[float, int, torch.dtype, torch.device]:
    """What entries must share to go through one kernel."""
    return part.updates, part.age, _compute_dtype(part.param), part.param.device


def _limit(part: Entries) -> int:
    """How many entries are handled together on this device."""
    return _CHUNK["cpu" if part.param.device.type == "cpu" else "cuda"]


def _pieces(whole: Entries) -> Iterator[Entries]:
    """`whole`, cut into views that are no longer than `_limit`."""
    limit = _limit(whole)
    if whole.size <= limit:
        yield whole
        return
    cut = {name: torch.split(value, limit) for name, value in whole.tensors().items()}
    for values in zip(*cut.values(), strict=True):
        yield replace(whole, **dict(zip(cut, values, strict=True)))


def _compute_dtype(param: Tensor) -> torch.dtype:
    """The dtype that `fused` computes in."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def _widened(part: Entries) -> Entries:
    """`part` in the compute dtype; tensors that have it already are not copied."""
    dtype = _compute_dtype(part.param)
    if part.param.dtype == part.grad.dtype == part.exp_avg.dtype == dtype:
        return part
    wide: dict[str, Any] = {name: value.to(dtype) for name, value in part.tensors().items()}
    return replace(part, **wide)


def _write_back(part: Entries, computed: Entries) -> None:
    """Round into `part` whatever was widened. The gradient is input only."""
    if computed is part:
        return
    results = computed.tensors()
    for name, value in part.tensors().items():
        if name != "grad" and results[name] is not value:
            value.copy_(results[name])


def _joined(parts: Sequence[Entries]) -> Entries:
    """All parts as one, for the spike rule; a single part is not copied."""
    if len(parts) == 1:
        return parts[0]
    names = ("grad", "exp_avg_sq", *(_STATISTICS if parts[0].grad_mean is not None else ()))
    joined: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in names
    }
    return replace(parts[0], **joined)


def _split(joined: Tensor, parts: Sequence[Entries]) -> list[Tensor]:
    """One view into `joined` for each part."""
    return list(torch.split(joined, [part.size for part in parts]))


def _split_statistics(together: Entries, parts: Sequence[Entries]) -> None:
    """Put the Gaussian rule's joined statistics back into the parts."""
    for name in _STATISTICS:
        for part, piece in zip(parts, _split(getattr(together, name), parts), strict=True):
            getattr(part, name).copy_(piece)


def _subtract(param: Tensor, direction: Tensor, rate: float | Tensor) -> None:
    """w := w - rate * direction, rounded once unless the rate is a tensor."""
    if isinstance(rate, Tensor):
        param.sub_(direction * rate)
    else:
        param.add_(direction, alpha=-rate)
