"""Adam with SPAM's saw-tooth: its steps are SPAM's where moments do not matter, its mean known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spam_lab.optim.baselines.adam import Adam
from spam_lab.optim.baselines.adam_sawtooth import SawtoothAdam, sawtooth
from spam_lab.optim.reset import ResetClock
from spam_lab.optim.spam import SPAM


def steps(optimizer: torch.optim.Optimizer, weight: torch.Tensor, count: int) -> list[float]:
    """How far each step goes on the gradient 1."""
    found = []
    for _ in range(count):
        before = weight.item()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        found.append(before - weight.item())
    return found


@pytest.mark.parametrize(("interval", "warmup"), [(7, 3), (5, 0), (4, 9)])
def test_on_a_constant_gradient_its_steps_are_those_of_spam(interval: int, warmup: int) -> None:
    """SPAM's own moments are really reset here; nothing of the formula is used."""
    betas, one = (0.9, 0.99), torch.zeros(1, dtype=torch.float64)
    other = one.clone()
    spam = SPAM([one], 0.1, betas, 0.0, delta_t=interval, warmup_steps=warmup, spike_rule="none")
    adam = SawtoothAdam([other], 0.1, betas, 0.0, interval=interval, sawtooth_warmup=warmup)
    assert steps(adam, other, 40) == pytest.approx(steps(spam, one, 40), rel=1e-10)


@pytest.mark.parametrize(
    ("interval", "warmup", "mean", "largest"),
    [(500, 150, 1.87, 2.73), (1000, 300, 1.41, 2.00), (50, 150, 0.48, 1.11), (500, 0, 2.60, 6.57)],
)
def test_mean_and_largest_multiplier_late_in_a_run(
    interval: int, warmup: int, mean: float, largest: float
) -> None:
    """Against moments that a loop over one interval adds up, with no closed form in it.

    Late in a run the running correction is 1; the printed numbers were measured on the reference
    code.
    """
    m = v = 0.0
    by_hand = []
    for since in range(interval):
        m, v = 0.9 * m + 0.1, 0.999 * v + 0.001
        cosine = (1 + math.cos(math.pi * since / (warmup + 1))) / 2
        by_hand.append((1 - 0.99 * cosine if since < warmup else 1.0) * m / math.sqrt(v))
    clock, start = ResetClock(interval, warmup, 0), 200 * interval
    ours = [sawtooth(start + since, clock, (0.9, 0.999)) for since in range(interval)]
    assert np.allclose(ours, by_hand, rtol=1e-3 if interval == 50 else 1e-6)
    assert np.mean(ours) == pytest.approx(mean, abs=0.006)
    assert max(ours) == pytest.approx(largest, abs=0.006)


def test_before_the_first_reset_and_without_moments_it_is_adam() -> None:
    torch.manual_seed(0)
    one = torch.randn(20, dtype=torch.float64)
    other = one.clone()
    adam, control = Adam([one], 0.01), SawtoothAdam([other], 0.01, interval=10)
    for call in range(1, 15):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
        adam.step()
        control.step()
        assert torch.equal(one, other) == (call < 10)
