"""Adafactor against its definition in float64, with clipped and unclipped updates, through a file,
and what transformers' class alone would not do."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.optim.baselines.adafactor import Adafactor
from spam_lab.optim.methods.adafactor import AdafactorConfig
from spam_lab.optim.registry import build_optimizer

SHAPES = {"embed": (6, 4), "mlp": (3, 5), "norm": (5,)}
STEPS = 14


class Oracle:
    """Shazeer and Stern's Algorithms 4 and 5 with fixed rates, sums and all."""

    def __init__(self, weights: dict[str, np.ndarray], **hyper: Any) -> None:
        self.w, self.hyper = weights, hyper
        self.r: dict[str, Any] = {}
        self.c: dict[str, Any] = {}
        self.m: dict[str, Any] = {}
        self.sizes: list[float] = []

    def step(self, t: int, lr: float, grads: dict[str, np.ndarray]) -> None:
        h = self.hyper
        beta2 = 1 - t ** h["decay_rate"]
        for name, g in grads.items():
            a = g * g + h["eps1"]
            if g.ndim == 2:
                # The paper sums where transformers averages: R C / sum(R) is the same matrix.
                rows, columns = a.sum(axis=1), a.sum(axis=0)
                self.r[name] = beta2 * self.r.get(name, 0.0) + (1 - beta2) * rows
                self.c[name] = beta2 * self.c.get(name, 0.0) + (1 - beta2) * columns
                v = np.outer(self.r[name], self.c[name]) / self.r[name].sum()
            else:
                v = self.r[name] = beta2 * self.r.get(name, 0.0) + (1 - beta2) * a
            u = g / np.sqrt(v)
            rms = math.sqrt(np.mean(u * u))
            self.sizes.append(rms / h["clip_threshold"])
            u = lr * u / max(1.0, rms / h["clip_threshold"])
            if h["beta1"] is not None:
                u = self.m[name] = h["beta1"] * self.m.get(name, 0.0) + (1 - h["beta1"]) * u
            self.w[name] = self.w[name] * (1 - lr * h["weight_decay"]) - u


def made(dtype: torch.dtype, **hyper: Any) -> tuple[dict[str, torch.nn.Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }
    for weight in weights.values():
        weight.data = weight.data.to(dtype)
    kinds = {"embed": "embedding", "mlp": "ffn", "norm": "norm"}
    named = [(name, kinds[name], weight) for name, weight in weights.items()]
    return weights, build_optimizer(AdafactorConfig(lr=1.0, **hyper), named, 0)


def gradients(step: int, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Noise; every fifth step is 30 times as large, which the clip must catch."""
    generator = torch.Generator().manual_seed(step)
    size = 30.0 if step % 5 == 0 else 1.0
    return {
        name: (size * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize(
    "hyper",
    [
        {"beta1": None, "decay_rate": -0.8, "eps1": 1e-30, "clip_threshold": 1.0},
        {"beta1": 0.9, "decay_rate": -0.5, "eps1": 1e-2, "clip_threshold": 0.7},
    ],
    ids=["published", "other"],
)
def test_it_is_the_published_update(hyper: dict[str, Any]) -> None:
    hyper = {**hyper, "weight_decay": 0.1}
    weights, optimizer = made(torch.float64, **hyper)
    oracle = Oracle({name: w.detach().numpy().copy() for name, w in weights.items()}, **hyper)
    for step in range(1, STEPS + 1):
        if step == 8:  # goes on from a file
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            values = {name: w.detach().clone() for name, w in weights.items()}
            weights, optimizer = made(torch.float64, **hyper)
            for name, value in values.items():
                weights[name].data.copy_(value)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        grads, lr = gradients(step), 0.01 * (1 + step % 3)
        for name, weight in weights.items():
            weight.grad = grads[name].clone()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        oracle.step(step, lr, {name: g.numpy() for name, g in grads.items()})
        for name, weight in weights.items():
            assert torch.equal(weight.grad, grads[name])
            np.testing.assert_allclose(weight.detach().numpy(), oracle.w[name], rtol=1e-12)
    assert min(oracle.sizes) < 1 < max(oracle.sizes), "clipped at times, and at times not"


def test_bfloat16_weights_have_float32_states_and_one_rounding() -> None:
    """A step from float32 copies of weights, gradients and states, rounded once, is the same."""
    coarse, optimizer = made(torch.bfloat16, beta1=0.9, weight_decay=0.1)
    fine, exact = made(torch.float32, beta1=0.9, weight_decay=0.1)
    for step in range(1, 7):
        grads = gradients(step, torch.bfloat16)
        for name, weight in coarse.items():
            weight.grad = grads[name]
            fine[name].grad = grads[name].float()
            fine[name].data.copy_(weight.data)
        optimizer.step()
        exact.step()
        for name, weight in coarse.items():
            assert torch.equal(weight.data, fine[name].data.to(torch.bfloat16)), (step, name)
    tensors = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
    assert {value.dtype for value in tensors} == {torch.float32}


def test_a_sparse_gradient_is_refused_before_anything_changes() -> None:
    weights, optimizer = made(torch.float32)
    before = weights["embed"].detach().clone()
    weights["embed"].grad = torch.ones(SHAPES["embed"])
    weights["mlp"].grad = torch.ones(SHAPES["mlp"]).to_sparse()
    with pytest.raises(RuntimeError, match="Adafactor does not support sparse gradients"):
        optimizer.step()
    assert torch.equal(weights["embed"].detach(), before)


def test_complex_parameters_are_refused() -> None:
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(RuntimeError, match="Adafactor does not support complex parameters"):
        build_optimizer(AdafactorConfig(lr=0.1), [("w", "norm", weight)], 0)


@pytest.mark.parametrize("beta1", [None, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_transformers_adafactor_to_the_bit(dtype: torch.dtype, beta1: float | None) -> None:
    """Against the class that the reference script calls, as that script sets it."""
    from transformers.optimization import Adafactor as Theirs

    generator = torch.Generator().manual_seed(3)
    shapes = [(6, 9), (11,), (2, 3, 4)]
    start = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(v.clone()) for v in start] for _ in range(2))
    fixed = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    one = Adafactor(ours, lr=0.02, beta1=beta1, weight_decay=0.1)
    other = Theirs(theirs, lr=0.02, beta1=beta1, weight_decay=0.1, **fixed)
    for _ in range(12):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator).to(dtype)
            b.grad = a.grad.clone()
        one.step()
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
