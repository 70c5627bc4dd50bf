"""The controls of the number format: stochastic rounding, and moments of another dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spam_lab.optim import SPAM
from spam_lab.optim.arithmetic import noises, rounded
from spam_lab.optim.baselines.adam import Adam

SEEDS = torch.tensor([12345, 678910])


def bits(count: int, seeds: torch.Tensor = SEEDS) -> torch.Tensor:
    return noises(0, count, seeds)[0]


def test_stochastic_rounding_is_right_on_average() -> None:
    """Between two neighbours, each comes with the probability that makes the mean the value."""
    count = 200_000
    low, high = torch.tensor(1.0), torch.tensor(1.0078125)
    for share in (0.0, 0.1, 0.5, 0.93):
        value = (low + share * (high - low)).expand(count).contiguous()
        found = rounded(value, torch.bfloat16, bits(count)).float()
        assert set(found.tolist()) <= {1.0, 1.0078125}
        up = (found == high).float().mean().item()
        assert abs(up - share) < 5 * (0.25 / count) ** 0.5 + 2**-16


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 0.0, -1.5, 3.0e38])
def test_what_bfloat16_has_stays(value: float) -> None:
    exact = torch.tensor([value]).to(torch.bfloat16)
    found = rounded(exact.float().repeat(1000), torch.bfloat16, bits(1000))
    assert torch.equal(found, exact.repeat(1000)) or bool(found.isnan().all() & exact.isnan())


def test_a_nan_of_any_pattern_stays_one() -> None:
    patterns = torch.tensor([0x7FFFFFFF, -1, 0x7F800001], dtype=torch.int32).view(torch.float32)
    assert bool(rounded(patterns, torch.bfloat16, torch.full((3,), 0xFFFF).int()).isnan().all())


def test_noise_is_uniform_and_independent() -> None:
    parts = noises(0, 1 << 16, SEEDS)
    for part in parts:
        histogram = torch.bincount(part.long() >> 12, minlength=16).float()
        assert ((histogram - 4096) ** 2 / 4096).sum().item() < 50  # 15 degrees of freedom
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(parts[a].numpy(), parts[b].numpy())[0, 1]) < 0.02
    later = noises(1000, 10, SEEDS)[0]
    assert torch.equal(later, parts[0][1000:1010]), "a stretch has the noise of its entries"
    assert not torch.equal(parts[0], bits(1 << 16, SEEDS + 1))


def descend(optimizer: torch.optim.Optimizer, param: torch.nn.Parameter, steps: int) -> None:
    for _ in range(steps):
        param.grad = torch.ones_like(param)
        optimizer.step()


def test_small_steps_are_lost_to_nearest_and_kept_on_average_by_stochastic_rounding() -> None:
    """A step of 1e-3 from 1.0 is a quarter of bfloat16's distance to its neighbour below."""
    nearest, stochastic = (torch.nn.Parameter(torch.ones(4096).bfloat16()) for _ in range(2))
    options = {"lr": 1e-4, "state_dtype": "float32"}
    descend(Adam([nearest], **options), nearest, 100)
    descend(Adam([stochastic], rounding="stochastic", **options), stochastic, 100)
    assert torch.equal(nearest.detach(), torch.ones(4096).bfloat16())
    assert abs(stochastic.float().mean().item() - (1 - 100 * 1e-4)) < 2e-4


def test_the_rounding_depends_on_seed_and_step_alone() -> None:
    def run(seed: int) -> torch.Tensor:
        param = torch.nn.Parameter(torch.linspace(-1, 1, 999).bfloat16())
        torch.manual_seed(np.random.randint(1 << 30))
        descend(SPAM([param], rounding="stochastic", seed=seed, delta_t=3), param, 7)
        return param.detach()

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_with_float32_moments_is_adam(weight_decay: float) -> None:
    """Against torch's own in float64, fed with the same gradients; then bfloat16 weights."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, 7, generator=generator, dtype=torch.float64)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    options = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3}
    mine = Adam([ours], **options, weight_decay=0.0, state_dtype="float32")
    reference = torch.optim.Adam([theirs], **options, foreach=False)
    thin = torch.nn.Parameter(start.bfloat16())
    half = Adam([thin], **options, weight_decay=weight_decay, state_dtype="float32")
    m, v = np.zeros(start.shape), np.zeros(start.shape)
    w = thin.detach().double().numpy()
    for step in range(1, 40):
        grad = torch.randn(start.shape, generator=generator, dtype=torch.float64)
        ours.grad, theirs.grad, thin.grad = grad, grad.clone(), grad.bfloat16()
        mine.step()
        reference.step()
        half.step()
        g = thin.grad.double().numpy()
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        w -= 0.01 * (m / (1 - 0.8**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-3)
        w -= 0.01 * weight_decay * w
        w = torch.from_numpy(w).bfloat16().double().numpy()
        near = np.abs(thin.detach().double().numpy() - w) <= np.abs(w) * 2**-7 + 1e-6
        assert near.mean() > 0.99
        w = thin.detach().double().numpy()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert half.state[thin]["exp_avg_sq"].dtype == torch.float32
    np.testing.assert_allclose(half.state[thin]["exp_avg_sq"].numpy(), v, rtol=1e-5)
