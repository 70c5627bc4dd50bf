"""FRUGAL against its definition in float64, through draws, missing gradients and a file; what each
selection draws, read off the weights themselves; and broken gradients where the sign would hide
them."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.optim.baselines.frugal import FRUGAL, SELECTIONS
from spam_lab.optim.methods.frugal import FrugalConfig
from spam_lab.optim.registry import build_optimizer

EPS, RATIO, DENSITY, EVERY = 0.05, 0.7, 0.4, 4
HYPER = {"beta1": 0.8, "beta2": 0.9, "eps": EPS, "weight_decay": 0.1, "sign_lr_ratio": RATIO}
SHAPES = {
    **{"q": (6, 6), "k": (5, 6), "up": (9, 6), "gate": (8, 6), "down": (6, 9)},
    **{"bias": (6,), "embed": (5, 6)},
}
KINDS = {"q": "attention", "k": "attention", "embed": "embedding"}
MATRICES = ("q", "k", "up", "gate", "down")


def made(selection: str, seed: int = 0) -> tuple[dict[str, torch.nn.Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }
    named = [(name, KINDS.get(name, "ffn"), weight) for name, weight in weights.items()]
    own = {"selection": selection, "density": DENSITY, "update_interval": EVERY}
    return weights, build_optimizer(FrugalConfig(lr=1.0, **own, **HYPER), named, seed)


def gradient(name: str, call: int) -> np.ndarray | None:
    """ "gate" has none at the call that draws for the third time, and zeros occur."""
    if name == "gate" and call == 2 * EVERY:
        return None
    random = np.random.default_rng([call, *name.encode()])
    drawn = random.normal(size=SHAPES[name]) * (30 if call % 6 == 5 else 1)
    if name in MATRICES and call % EVERY == 2:
        drawn[0, :2] = 0.0
    return drawn


class Oracle:
    """One tensor with full-size moments, of which those outside `on` are never read."""

    def __init__(self, w: np.ndarray) -> None:
        self.w, self.on, self.draw = w.copy(), np.ones(w.shape, bool), -1
        self.t, self.m, self.v = 0, np.zeros(w.shape), np.zeros(w.shape)

    def renew(self, draw: int, moved: np.ndarray, g: np.ndarray, lr: float) -> None:
        """Read off a first step who has moments: Adam's is lr g / (|g| + eps), not lr ratio."""
        by_sign = (1 - lr * 0.1) * self.w - lr * RATIO * np.sign(g)
        self.on = np.abs(moved - by_sign) > 1e-9
        self.draw, self.t = draw, 0
        self.m, self.v = np.zeros(self.w.shape), np.zeros(self.w.shape)

    def step(self, g: np.ndarray, lr: float) -> None:
        self.t += 1
        self.m = 0.8 * self.m + 0.2 * g
        self.v = 0.9 * self.v + 0.1 * g * g
        m_hat = self.m / (1 - 0.8**self.t)
        v_hat = self.v / (1 - 0.9**self.t)
        adam = m_hat / (v_hat**0.5 + EPS)
        self.w = self.w - lr * 0.1 * self.w
        self.w = self.w - lr * np.where(self.on, adam, RATIO * np.sign(g))


def run(selection: str, calls: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Train beside the oracle; who had moments in each draw."""
    weights, optimizer = made(selection, seed)
    oracles = {name: Oracle(weight.detach().numpy()) for name, weight in weights.items()}
    drawn: list[dict[str, np.ndarray]] = []
    for call in range(calls):
        if call == 6:  # goes on from a file, between two draws
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            values = {name: weight.detach().clone() for name, weight in weights.items()}
            weights, optimizer = made(selection, seed)
            for name, value in values.items():
                weights[name].data.copy_(value)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        lr = 0.05 * (1 + call % 3)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, weight in weights.items():
            g = gradient(name, call)
            weight.grad = None if g is None else torch.from_numpy(g)
        optimizer.step()
        for name, weight in weights.items():
            g, oracle = gradient(name, call), oracles[name]
            if g is None:
                continue
            assert np.array_equal(weight.grad.numpy(), g)
            if name in MATRICES and oracle.draw != call // EVERY:
                oracle.renew(call // EVERY, weight.detach().numpy(), g, lr)
            oracle.step(g, lr)
            np.testing.assert_allclose(
                weight.detach().numpy(), oracle.w, rtol=1e-10, atol=1e-10, err_msg=name
            )
        if call % EVERY == EVERY - 1:
            drawn.append({name: oracles[name].on for name in MATRICES})
            for name in MATRICES:
                state = optimizer.state[weights[name]]
                kept = {k: v.numel() for k, v in state.items() if isinstance(v, torch.Tensor)}
                size = int(oracles[name].on.sum())
                assert kept == ({"exp_avg": size, "exp_avg_sq": size} if size else {})
    return drawn


@pytest.mark.parametrize("selection", SELECTIONS)
def test_it_is_the_published_update(selection: str) -> None:
    random = torch.get_rng_state()
    drawn = run(selection, 16)
    assert torch.equal(random, torch.get_rng_state()), "nothing is drawn from the global state"
    for masks in drawn:
        if selection == "blocks":
            assert all(mask.all() or not mask.any() for mask in masks.values())
            assert sum(bool(mask.all()) for mask in masks.values()) == 2
        elif selection == "columns":
            for mask in masks.values():
                assert (mask == mask[0]).all() and mask[0].sum() == int(DENSITY * mask.shape[1])
        else:
            assert all(mask.sum() == int(DENSITY * mask.size) for mask in masks.values())
    told = {tuple(tuple(mask.ravel()) for mask in masks.values()) for masks in drawn}
    assert len(told) > 1, "draws differ"


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_seed_decides_what_is_drawn(selection: str) -> None:
    def told(seed: int) -> list[bool]:
        masks = run(selection, EVERY, seed)[0]
        return [bool(entry) for mask in masks.values() for entry in mask.ravel()]

    assert told(0) == told(0)
    assert any(told(0) != told(seed) for seed in (1, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_sign_hides_no_broken_gradient(selection: str, value: float) -> None:
    """In every entry, whether it has moments or not."""
    weights, optimizer = made(selection)
    for weight in weights.values():
        weight.grad = torch.full_like(weight, value)
    optimizer.step()
    assert not any(weight.isfinite().any() for weight in weights.values())


def test_moments_have_the_gradients_dtype_and_any_layout_will_do() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 6, dtype=torch.bfloat16).T)
    optimizer = FRUGAL([weight], lr=0.1, selection="random", density=0.5)
    weight.grad = torch.ones_like(weight)
    assert not weight.grad.is_contiguous()
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"].dtype == torch.bfloat16
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 0.9), atol=0.01, rtol=0)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_memory_can_be_counted_without_values(selection: str) -> None:
    """A quarter of Adam's moments of eight equal matrices, and nothing else."""
    with torch.device("meta"):
        weights = [torch.nn.Parameter(torch.empty(64, 32)) for _ in range(8)]
        optimizer = FRUGAL(weights, lr=0.1, selection=selection)
        for weight in weights:
            weight.grad = torch.empty_like(weight)
        optimizer.step()
    kept = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    assert sum(tensor.numel() for tensor in kept) == 2 * 8 * 64 * 32 / 4


def test_a_group_added_later_shares_the_clock() -> None:
    first, later = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    optimizer = FRUGAL([first], lr=0.1, update_interval=3, selection="columns")
    first.grad = torch.ones(4, 4)
    for _ in range(4):
        optimizer.step()
    optimizer.add_param_group({"params": [later]})
    later.grad = torch.ones(4, 4)
    optimizer.step()
    assert optimizer.state[first]["draw"] == optimizer.state[later]["draw"] == 1


def test_an_unknown_selection_is_refused() -> None:
    with pytest.raises(ValueError, match="selection='rows' is not allowed: one of blocks, columns"):
        FRUGAL([torch.nn.Parameter(torch.ones(2, 2))], lr=0.1, selection="rows")
