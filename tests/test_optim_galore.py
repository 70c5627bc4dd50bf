"""GaLore against its definition in float64, through new projectors and a file; its memory against
the paper's arithmetic; and what it does with ranks and gradients that have no projector."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.optim.methods.galore import GaloreConfig
from spam_lab.optim.registry import build_optimizer

HYPER = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1, "alpha": 0.3}
RANK, EVERY = 3, 4
SHAPES = {"tall": (7, 5), "wide": (4, 9), "square": (6, 6), "bias": (6,), "embed": (5, 6)}
KINDS = {"tall": "ffn", "wide": "ffn", "square": "attention", "bias": "ffn", "embed": "embedding"}
PROJECTED = ("tall", "wide", "square")


def made(dtype: torch.dtype = torch.float64) -> tuple[dict[str, torch.nn.Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for name, shape in SHAPES.items()
    }
    named = [(name, KINDS[name], weight) for name, weight in weights.items()]
    config = GaloreConfig(lr=1.0, rank=RANK, update_interval=EVERY, **HYPER)
    return weights, build_optimizer(config, named, 0)


def gradient(name: str, step: int) -> np.ndarray:
    random = np.random.default_rng([step, len(name)])
    return random.normal(size=SHAPES[name]) * (30 if step % 6 == 5 else 1)


class Oracle:
    """One tensor. A tall matrix is turned on its side, so that the left is always projected."""

    def __init__(self, w: np.ndarray, projected: bool) -> None:
        self.turned = projected and w.shape[0] >= w.shape[1]
        self.w = w.T.copy() if self.turned else w.copy()
        self.p = np.eye(len(w)) if not projected else None
        self.projected, self.t = projected, 0
        self.m = self.v = 0.0

    def step(self, g: np.ndarray, lr: float, chosen: np.ndarray | None) -> None:
        """`chosen` is the optimizer's projector, which alone decides the signs."""
        g = g.T if self.turned else g
        if self.projected and self.t % EVERY == 0:
            eigenvectors = np.linalg.eigh(g @ g.T)[1][:, ::-1][:, :RANK]
            signs = np.sign(np.sum(eigenvectors * chosen, axis=0))
            self.p = eigenvectors * signs
            np.testing.assert_allclose(self.p, chosen, atol=1e-10)
        self.t += 1
        r = self.p.T @ g if self.projected else g
        self.m = 0.8 * self.m + 0.2 * r
        self.v = 0.9 * self.v + 0.1 * r**2
        size = lr * math.sqrt(1 - 0.9**self.t) / (1 - 0.8**self.t)
        n = self.m / (np.sqrt(self.v) + 1e-3)
        self.w = self.w - lr * 0.1 * self.w
        self.w = self.w - size * (0.3 * self.p @ n if self.projected else n)

    def weight(self) -> np.ndarray:
        return self.w.T if self.turned else self.w


def test_it_is_the_published_update() -> None:
    weights, optimizer = made()
    oracles = {n: Oracle(w.detach().numpy(), n in PROJECTED) for n, w in weights.items()}
    for step in range(14):
        if step == 6:  # goes on from a file, between two projectors
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            values = {name: weight.detach().clone() for name, weight in weights.items()}
            weights, optimizer = made()
            for name, value in values.items():
                weights[name].data.copy_(value)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        lr = 0.05 * (1 + step % 3)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(gradient(name, step))
        optimizer.step()
        for name, weight in weights.items():
            assert np.array_equal(weight.grad.numpy(), gradient(name, step))
            projector = optimizer.state[weight].get("projector")
            assert (projector is not None) == (name in PROJECTED)
            chosen = None if projector is None else projector.numpy()
            oracles[name].step(gradient(name, step), lr, chosen)
            np.testing.assert_allclose(
                weight.detach().numpy(), oracles[name].weight(), rtol=1e-9, atol=1e-9, err_msg=name
            )


def test_the_state_is_as_large_as_the_papers_formula_says() -> None:
    """One layer of LLaMA-60M; eight keep the share of Adam's moments that is SPAM's density."""
    shapes = 4 * [(512, 512)] + 2 * [(1376, 512)] + [(512, 1376)]
    named = [
        (f"w{i}", "ffn", torch.nn.Parameter(torch.empty(s, dtype=torch.bfloat16, device="meta")))
        for i, s in enumerate(shapes)
    ]
    optimizer = build_optimizer(GaloreConfig(lr=0.1, rank=128), named, 0)
    for _, _, weight in named:
        weight.grad = torch.empty_like(weight)
    optimizer.step()
    found = {"projector": 0, "exp_avg": 0, "exp_avg_sq": 0}
    for (_, _, weight), (rows, columns) in zip(named, shapes, strict=True):
        state = optimizer.state[weight]
        assert state.keys() == {"step", *found}
        kept = {key: state[key].untyped_storage().nbytes() // 2 for key in found}
        assert kept["projector"] == 128 * min(rows, columns)
        assert kept["exp_avg"] == kept["exp_avg_sq"] == 128 * max(rows, columns)
        found = {key: found[key] + kept[key] for key in found}
    assert sum(found.values()) * 8 == round(0.3225388601036269 * 2 * 25_296_896)


def test_the_projector_keeps_no_more_than_itself() -> None:
    """Nor does it keep the whole of what the decomposition returned, and its dtype is the
    gradient's."""
    weights, optimizer = made(torch.bfloat16)
    for name, weight in weights.items():
        weight.grad = torch.from_numpy(gradient(name, 0)).bfloat16()
    optimizer.step()
    for name in PROJECTED:
        projector = optimizer.state[weights[name]]["projector"]
        assert projector.dtype == torch.bfloat16
        assert projector.untyped_storage().nbytes() == 2 * RANK * min(SHAPES[name])
        between = projector.float().T @ projector.float()
        torch.testing.assert_close(between, torch.eye(RANK), atol=0.02, rtol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [0, 1])
def test_a_gradient_that_is_not_finite_reaches_the_matrix(step: int, value: float) -> None:
    """At a step that needs a new projector, for which torch's SVD raises, no entry survives: there
    is no subspace. At another, what the gradient touches does not."""
    weights, optimizer = made()
    for now in range(step + 1):
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(gradient(name, now))
            if now == step:
                weight.grad.view(-1)[0] = value
        optimizer.step()
    for name in PROJECTED:
        finite = weights[name].isfinite()
        assert not (finite.any() if step == 0 else finite.all()), name


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_a_rank_above_the_smaller_side_is_refused(shape: tuple[int, int]) -> None:
    named = [("w", "attention", torch.nn.Parameter(torch.ones(shape)))]
    build_optimizer(GaloreConfig(lr=0.1, rank=4), named, 0)
    allowed = r"rank=5 is not allowed for a matrix of shape \(., .\): at most its smaller side, 4"
    with pytest.raises(ValueError, match=allowed):
        build_optimizer(GaloreConfig(lr=0.1, rank=5), named, 0)
    build_optimizer(GaloreConfig(lr=0.1, rank=5), [("w", "head", named[0][2])], 0)
    empty = torch.nn.Parameter(torch.ones(0, 6))
    build_optimizer(GaloreConfig(lr=0.1, rank=5), [("w", "attention", empty)], 0)
