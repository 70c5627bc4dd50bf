"""AdaGC against a NumPy oracle, and the choices that its docstring states."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.optim.baselines.adagc import AdaGC
from tests.oracle_transforms import Gradients, OracleAdam, assert_equals_oracle

HYPER: dict[str, Any] = {
    **{"betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1, "beta": 0.9, "lambda_abs": 1.0},
    **{"lambda_rel": 1.2, "warmup_steps": 12},
}


class OracleAdaGC(OracleAdam):
    """Counts clipped gradients of the two phases in `clipped`."""

    def __init__(self, weights: Any, hyper: Any) -> None:
        super().__init__(weights, hyper)
        self.t = dict.fromkeys(self.w, 0)
        self.gamma: dict[str, float | None] = dict.fromkeys(self.w)
        self.clipped = [0, 0]

    def transform(self, grads: Gradients) -> Gradients:
        everything = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
        return {name: self.one(name, g, everything) for name, g in grads.items()}

    def one(self, name: str, g: np.ndarray, everything: float) -> np.ndarray:
        self.t[name] += 1
        gamma, beta = self.gamma[name], self.hyper["beta"]
        early = self.t[name] == 1 or self.t[name] < self.hyper["warmup_steps"]
        if early:
            h = min(1.0, self.hyper["lambda_abs"] / everything)
        elif gamma is None or not g.any():
            h = 1.0
        else:
            h = min(1.0, self.hyper["lambda_rel"] * gamma / float(np.linalg.norm(g)))
        self.clipped[not early] += h < 1
        norm = float(np.linalg.norm(h * g))
        if gamma is None:
            self.gamma[name] = norm or None
        elif early:
            self.gamma[name] = min(gamma, norm or gamma)
        else:
            self.gamma[name] = beta * gamma + (1 - beta) * norm
        return h * g


@pytest.mark.parametrize("warmup_steps", [12, 3, 2, 0])
def test_every_step_equals_the_oracle(warmup_steps: int) -> None:
    """`b` gets two gradients of zeros first: with a warm-up below 3 it ends without a gamma."""
    hyper = {**HYPER, "warmup_steps": warmup_steps}
    oracle = assert_equals_oracle(AdaGC, OracleAdaGC, hyper)
    assert isinstance(oracle, OracleAdaGC)
    assert oracle.clipped[0] >= (3 if warmup_steps == 12 else 1), oracle.clipped
    assert oracle.clipped[1] >= 10, oracle.clipped


def test_float32_stays_near_the_oracle() -> None:
    assert_equals_oracle(AdaGC, OracleAdaGC, HYPER, dtype=torch.float32, steps=40, tolerance=2e-5)


def test_a_zero_gradient_freezes_nothing() -> None:
    """As printed, gamma would be the smallest norm, 0, and no gradient would ever pass again."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = AdaGC([weight], warmup_steps=4, betas=(0.0, 0.0))
    for step in range(8):
        weight.grad = torch.full((3,), 0.0 if step < 2 else 0.1)
        optimizer.step()
    torch.testing.assert_close(optimizer.state[weight]["exp_avg"], weight.grad)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 6])
def test_one_broken_entry_reaches_the_weights(value: float, step: int) -> None:
    """In the warm-up and after it, with the limits in force."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = AdaGC([weight], warmup_steps=4)
    for i in range(step + 1):
        weight.grad = torch.tensor([1.0, value if i == step else 1.0, 1.0])
        optimizer.step()
    assert not weight[1].isfinite()
