"""What one spike leaves in Adam's moments: a simulation on one weight (paper, Section 2.2).

It owns the gradients of the paper's Figure 5, middle and right, and their trace in m and v, for
which torch's own Adam is stepped in float64. It promises the same numbers from the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MEAN, VARIANCE = 0.1, 0.1
SPIKE, SPIKE_STEP = 10.0, 30
"""The paper's gradients are N(0.1, 0.1), the second its variance, and 10 at step 30."""


@dataclass(frozen=True)
class Moments:
    """Raw moments after each step, without bias correction; the first is that after step 1."""

    exp_avg: tuple[float, ...]
    exp_avg_sq: tuple[float, ...]


def gradients(steps: int, seed: int, spike: float | None = SPIKE) -> list[float]:
    """One weight's gradients, step 1 first; `spike` stands at SPIKE_STEP, None leaves it out."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(steps, generator=generator, dtype=torch.float64)
    found: list[float] = (MEAN + math.sqrt(VARIANCE) * drawn).tolist()
    if spike is not None:
        found[SPIKE_STEP - 1] = spike
    return found


def trace(grads: Sequence[float], betas: tuple[float, float] = (0.9, 0.999)) -> Moments:
    """The moments that torch's Adam has after each of these gradients, in float64."""
    import torch

    weight = torch.zeros((), dtype=torch.float64)
    optimizer = torch.optim.Adam([weight], lr=1e-3, betas=betas)
    first, second = [], []
    for grad in grads:
        weight.grad = torch.tensor(grad, dtype=torch.float64)
        optimizer.step()
        state = optimizer.state[weight]
        first.append(float(state["exp_avg"]))
        second.append(float(state["exp_avg_sq"]))
    return Moments(tuple(first), tuple(second))


def recovery(spiked: Sequence[float], clean: Sequence[float], share: float) -> int | None:
    """Steps after the spike until at most `share` of what it added to a moment is left.

    What it added is the difference to the trace of the same gradients without it. None where more
    is left at the end.
    """
    left = [abs(one - other) for one, other in zip(spiked, clean, strict=True)]
    first = SPIKE_STEP - 1
    for step in range(first, len(left)):
        if left[step] <= share * left[first]:
            return step - first
    return None
