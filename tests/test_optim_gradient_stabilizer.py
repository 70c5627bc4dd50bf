"""GradientStabilizer against a NumPy oracle, and what it does at the edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.optim.baselines.gradient_stabilizer import GradientStabilizer
from tests.oracle_transforms import Gradients, OracleAdam, assert_equals_oracle

HYPER: dict[str, Any] = {
    **{"betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1, "gamma1": 0.6, "gamma2": 0.95}
}


class OracleGradientStabilizer(OracleAdam):
    """Every average is a sum over all the norms so far."""

    def __init__(self, weights: Any, hyper: Any) -> None:
        super().__init__(weights, hyper)
        self.norms: dict[str, list[float]] = {name: [] for name in self.w}
        self.skipped = 0

    def transform(self, grads: Gradients) -> Gradients:
        gamma1, gamma2 = self.hyper["gamma1"], self.hyper["gamma2"]
        found = {}
        for name, g in grads.items():
            r = math.sqrt(np.sum(g * g))
            if r == 0 or not math.isfinite(r):
                self.skipped += 1
                found[name] = g
                continue
            self.norms[name].append(r)
            past = np.array(self.norms[name])[::-1]
            weights1 = (1 - gamma1) * gamma1 ** np.arange(len(past))
            weights2 = (1 - gamma2) * gamma2 ** np.arange(len(past))
            if self.hyper["correction"] == "code":
                weights1 = weights1 / weights1.sum()
                weights2 = weights2 / weights2.sum()
            rho = np.sum(weights1 * past) / math.sqrt(np.sum(weights2 * past**2))
            found[name] = g / r * rho
        return found


@pytest.mark.parametrize("correction", ["code", "paper"])
@pytest.mark.parametrize("gamma1", [0.6, 0.0])
def test_every_step_equals_the_oracle(correction: str, gamma1: float) -> None:
    hyper = {**HYPER, "correction": correction, "gamma1": gamma1}
    oracle = assert_equals_oracle(
        GradientStabilizer, OracleGradientStabilizer, hyper, tolerance=1e-10
    )
    assert isinstance(oracle, OracleGradientStabilizer) and oracle.skipped >= 2


def test_float32_stays_near_the_oracle() -> None:
    hyper = {**HYPER, "correction": "code"}
    assert_equals_oracle(
        GradientStabilizer,
        OracleGradientStabilizer,
        hyper,
        dtype=torch.float32,
        steps=40,
        tolerance=2e-5,
    )


@pytest.mark.parametrize(("correction", "first"), [("code", 1.0), ("paper", 0.4 / 0.001**0.5)])
def test_the_first_gradient_gets_the_length_of_the_definition(
    correction: str, first: float
) -> None:
    """1 if corrected; (1 - gamma1) / sqrt(1 - gamma2) = 12.6 as printed; also in float32."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = GradientStabilizer([weight], betas=(0.0, 0.0), correction=correction)
    weight.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"].norm().item() == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_gradient_passes_and_leaves_the_statistics(value: float) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = GradientStabilizer([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    keys = ("mean_norm", "mean_square", "counted")
    before = [optimizer.state[weight][key].clone() for key in keys]
    weight.grad = torch.tensor([1.0, value, 1.0])
    optimizer.step()
    assert [optimizer.state[weight][key] for key in keys] == before
    assert not weight[1].isfinite() and weight[[0, 2]].isfinite().all()


def test_an_unknown_correction_is_refused() -> None:
    with pytest.raises(ValueError, match="correction='none' is not allowed"):
        GradientStabilizer([torch.nn.Parameter(torch.ones(1))], correction="none")
