"""ZClip against a NumPy oracle that keeps a buffer, and the limits it promises."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.optim.baselines.zclip import ZClip
from tests.oracle_transforms import Gradients, OracleAdam, assert_equals_oracle

HYPER: dict[str, Any] = {
    **{"betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1, "alpha": 0.9, "z_threshold": 1.5},
    **{"max_norm": 1.0, "warmup_steps": 12},
}


class OracleZClip(OracleAdam):
    """Counts outliers in `outliers`, and steps that max_norm alone limits in `long`."""

    def __init__(self, weights: Any, hyper: Any) -> None:
        super().__init__(weights, hyper)
        self.buffer: list[float] = []
        self.mean = self.var = 0.0
        self.outliers = self.long = 0

    def transform(self, grads: Gradients) -> Gradients:
        everything = np.concatenate([g.ravel() for g in grads.values()])
        r = math.sqrt(np.dot(everything, everything))
        limit = math.inf
        if len(self.buffer) < self.hyper["warmup_steps"]:
            self.buffer.append(r)
            if len(self.buffer) == self.hyper["warmup_steps"]:
                self.mean, self.var = float(np.mean(self.buffer)), float(np.var(self.buffer))
        else:
            sigma, threshold = math.sqrt(self.var), self.hyper["z_threshold"]
            z = (r - self.mean) / (sigma + 1e-6)
            effective = r
            if z > threshold:
                self.outliers += 1
                effective = limit = self.mean + threshold * sigma / (z / threshold)
            a = self.hyper["alpha"]
            self.mean = a * self.mean + (1 - a) * effective
            self.var = a * self.var + (1 - a) * (effective - self.mean) ** 2
        if self.hyper["max_norm"] is not None and self.hyper["max_norm"] < limit:
            limit = self.hyper["max_norm"]
            self.long += r > limit
        factor = limit / (r + 1e-6) if r > limit else 1.0
        return {name: g * factor for name, g in grads.items()}


@pytest.mark.parametrize("max_norm", [1.0, None])
@pytest.mark.parametrize("warmup_steps", [12, 1])
def test_every_step_equals_the_oracle(max_norm: float | None, warmup_steps: int) -> None:
    hyper = {**HYPER, "max_norm": max_norm, "warmup_steps": warmup_steps}
    oracle = assert_equals_oracle(ZClip, OracleZClip, hyper)
    assert isinstance(oracle, OracleZClip)
    assert oracle.outliers >= 3
    assert (oracle.long >= 3) == (max_norm is not None)


def test_float32_stays_near_the_oracle() -> None:
    assert_equals_oracle(ZClip, OracleZClip, HYPER, dtype=torch.float32, steps=40, tolerance=2e-5)


def test_one_norm_for_all_groups_and_none_for_absent_gradients() -> None:
    """A spike in one tensor scales the other down as much, and an idle call counts nothing."""
    calm, wild = (torch.nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
    optimizer = ZClip(
        [{"params": [calm]}, {"params": [wild]}],
        betas=(0.0, 0.0),
        max_norm=None,
        warmup_steps=4,
    )
    for step in range(6):
        optimizer.zero_grad()
        if step == 2:
            optimizer.step()
            assert optimizer.state[calm]["norms"] == 2
        calm.grad = torch.ones_like(calm) * (1 + 0.01 * (step % 2))
        wild.grad = torch.ones_like(wild) * (100.0 if step == 5 else 1.0)
        optimizer.step()
    factors = [optimizer.state[p]["exp_avg"] / p.grad for p in (calm, wild)]
    assert factors[0].tolist() == pytest.approx([factors[1][0].item()] * 3)
    assert 0 < factors[0][0].item() < 0.05


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 6])
def test_one_broken_entry_reaches_the_weights(value: float, step: int) -> None:
    """In the warm-up and after it, with the limit in force."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = ZClip([weight], warmup_steps=3)
    for i in range(step + 1):
        weight.grad = torch.tensor([1.0, value if i == step else 1.0, 1.0])
        optimizer.step()
    assert not weight[1].isfinite()
