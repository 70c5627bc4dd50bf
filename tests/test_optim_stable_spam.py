"""Stable-SPAM against a NumPy oracle in both ways of counting, and what tells them apart."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.optim.baselines.stable_spam import StableSPAM
from tests.oracle_transforms import Gradients, OracleAdam, assert_equals_oracle

HYPER: dict[str, Any] = {
    **{"betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1, "gamma1": 0.7, "gamma2": 0.95},
    **{"gamma3": 0.9, "delta_t": 10, "total_steps": 40, "eta_min": 0.3},
}


class OracleStableSpam(OracleAdam):
    """Counts how often each branch was taken in `seen`."""

    def __init__(self, weights: Any, hyper: Any) -> None:
        super().__init__(weights, hyper)
        self.call = 0
        self.norms: dict[str, list[float]] = {name: [] for name in self.w}
        self.tops: dict[str, list[float]] = {name: [] for name in self.w}
        self.means: dict[str, list[float]] = {name: [] for name in self.w}
        self.k = dict.fromkeys(self.w, 0)
        self.seen = {"clipped": 0, "reset": 0, "zero": 0}

    def sigma(self) -> float:
        total, low = self.hyper["total_steps"], self.hyper["eta_min"]
        if total is None:
            return 1.0
        angle = math.pi * self.call / (total + 1)
        if self.hyper["counters"] == "repaired":
            angle = min(angle, math.pi)
        return low + (1 - low) * math.cos(angle / 2) ** 2

    def step(self, grads: Gradients, lr: float) -> None:
        self.call += 1
        delta_t = self.hyper["delta_t"]
        due = delta_t is not None and self.call % delta_t == 0
        beta1 = self.hyper["betas"][0] * self.sigma()
        for name, g in grads.items():
            h = self.filtered(name, g.copy())
            if due:
                self.seen["reset"] += 1
                self.b[name] = 0
                if self.hyper["counters"] == "repaired":
                    self.m[name] = np.zeros_like(g)
                    self.v[name] = np.zeros_like(g)
            self.adam(name, h, lr, beta1)
            if due and self.hyper["counters"] == "published":
                self.k[name] = 1
                self.m[name] = np.zeros_like(g)
                self.v[name] = np.zeros_like(g)

    def filtered(self, name: str, g: np.ndarray) -> np.ndarray:
        """AdaClip and AdaGN: the averages are sums over the whole past, not recursions."""
        self.k[name] += 1
        k, gamma2, gamma3 = self.k[name], self.hyper["gamma2"], self.hyper["gamma3"]
        gamma1 = self.hyper["gamma1"] * self.sigma()
        top = np.abs(g).max()
        self.tops[name].append(top)
        age = np.arange(len(self.tops[name]))[::-1]
        t_hat = (1 - gamma3) * np.sum(gamma3**age * self.tops[name]) / (1 - gamma3**k)
        for i in np.argwhere(np.abs(g) > t_hat):
            self.seen["clipped"] += 1
            g[tuple(i)] = g[tuple(i)] / top * t_hat
        n = math.sqrt((g**2).sum())
        self.norms[name].append(n)
        last = self.means[name][-1] if self.means[name] else 0.0
        self.means[name].append(last * gamma1 + n * (1 - gamma1))
        mu_hat = self.means[name][-1] / (1 - gamma1**k)
        squares = np.square(self.norms[name])
        nu_hat = (1 - gamma2) * np.sum(gamma2**age * squares) / (1 - gamma2**k)
        if n == 0:
            self.seen["zero"] += 1
            return g
        return g / n * (mu_hat / (math.sqrt(nu_hat) + self.hyper["eps"]))


@pytest.mark.parametrize("counters", ["repaired", "published"])
@pytest.mark.parametrize(
    "change",
    [{}, {"total_steps": None}, {"delta_t": None}, {"delta_t": 1}, {"gamma1": 0.0, "gamma2": 0.0}],
    ids=str,
)
def test_every_step_equals_the_oracle(counters: str, change: dict[str, Any]) -> None:
    hyper = {**HYPER, "counters": counters, **change}
    oracle = assert_equals_oracle(StableSPAM, OracleStableSpam, hyper)
    assert isinstance(oracle, OracleStableSpam)
    assert oracle.seen["clipped"] > 20 or change, oracle.seen
    assert oracle.seen["zero"] >= 2, oracle.seen
    assert (oracle.seen["reset"] >= 12) == (hyper["delta_t"] is not None)


def test_float32_stays_near_the_oracle() -> None:
    hyper = {**HYPER, "counters": "repaired"}
    assert_equals_oracle(
        StableSPAM, OracleStableSpam, hyper, dtype=torch.float32, steps=40, tolerance=2e-5
    )


def moved(counters: str, steps: int, **options: Any) -> list[float]:
    """How far the weight of a single entry moves at each step under a constant gradient."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = StableSPAM([weight], lr=1.0, delta_t=20, counters=counters, **options)
    places = [0.0]
    for _ in range(steps):
        weight.grad = torch.full_like(weight, 3.0)
        optimizer.step()
        places.append(weight.item())
    return [before - after for before, after in itertools.pairwise(places)]


def test_repaired_counters_take_unit_steps_and_published_ones_do_not() -> None:
    """With a constant gradient, every average equals its value, and so Adam's step is lr: always,
    if what is corrected is what was counted."""
    assert moved("repaired", 50) == pytest.approx([1.0] * 50, rel=1e-6)
    published = moved("published", 50)
    assert published[:19] == pytest.approx([1.0] * 19, rel=1e-6)
    # The reset call: m and v of 20 updates, corrected as if of one.
    assert published[19] == pytest.approx(
        (1 - 0.9**20) / 0.1 / ((1 - 0.999**20) / 0.001) ** 0.5, rel=1e-6
    )
    # The call after it: m and v of one update, corrected as if of two.
    assert published[20] == pytest.approx(0.1 / 0.19 / (0.001 / (1 - 0.999**2)) ** 0.5, rel=1e-6)


def test_the_published_threshold_is_off_after_a_reset() -> None:
    """A spike of 10 at the third step after the reset is clipped by repaired counters alone."""

    def first_moment(counters: str) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
        optimizer = StableSPAM([weight], delta_t=20, counters=counters)
        for step in range(22):
            weight.grad = torch.ones_like(weight)
            if step == 21:
                weight.grad[0] = 10.0
            before = optimizer.state[weight]["exp_avg"].clone() if step else torch.zeros(4)
            optimizer.step()
        after: torch.Tensor = optimizer.state[weight]["exp_avg"]
        return after - 0.9 * before

    repaired, published = first_moment("repaired"), first_moment("published")
    assert published[0] / published[1] == pytest.approx(10)
    assert repaired[0] / repaired[1] < 2


def test_late_groups_count_calls_with_the_others() -> None:
    early, late = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    optimizer = StableSPAM([early], delta_t=4)
    for step in range(8):
        if step == 2:
            optimizer.add_param_group({"params": [late]})
        early.grad, late.grad = torch.ones_like(early), torch.ones_like(late)
        optimizer.step()
    assert [group["calls"] for group in optimizer.param_groups] == [8, 8]
    assert optimizer.state[early]["step"] == optimizer.state[late]["step"] == 1


def test_an_unknown_way_of_counting_is_refused() -> None:
    with pytest.raises(ValueError, match="counters='both' is not allowed"):
        StableSPAM([torch.nn.Parameter(torch.ones(1))], counters="both")
