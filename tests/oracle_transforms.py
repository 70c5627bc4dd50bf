"""Adam behind a transform in plain NumPy float64, and the run that compares an optimizer with it.

This file owns what the oracles of Stable-SPAM, GradientStabilizer, ZClip and AdaGC share: AdamW's
formulas and a course of gradients with spikes, zeros, gaps and a tensor that comes late. An oracle
gives `transform`; it shares no code with `spam_lab.optim`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

SHAPES = {"w": (4, 6), "u": (3, 5), "b": (5,)}
LATE = 9
"""Step from which `b` has gradients."""

Gradients = dict[str, np.ndarray]


class OracleAdam:
    """AdamW. `hyper` holds the keyword arguments of the optimizer; `lr` is given at each step."""

    def __init__(self, weights: Mapping[str, np.ndarray], hyper: Mapping[str, Any]) -> None:
        self.w = {name: np.array(value, dtype=np.float64) for name, value in weights.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.w.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.w.items()}
        self.b = dict.fromkeys(self.w, 0)
        self.hyper = hyper

    def step(self, grads: Gradients, lr: float) -> None:
        """One call of the optimizer, with the gradients that are there."""
        transformed = self.transform({name: g.copy() for name, g in grads.items()})
        for name, h in transformed.items():
            self.adam(name, h, lr, self.hyper["betas"][0])

    def transform(self, grads: Gradients) -> Gradients:
        """What Adam gets for each gradient."""
        raise NotImplementedError

    def adam(self, name: str, h: np.ndarray, lr: float, beta1: float) -> None:
        """The step of one tensor."""
        beta2, eps = self.hyper["betas"][1], self.hyper["eps"]
        self.w[name] = self.w[name] - lr * self.hyper["weight_decay"] * self.w[name]
        self.b[name] += 1
        self.m[name] = beta1 * self.m[name] + (1 - beta1) * h
        self.v[name] = beta2 * self.v[name] + (1 - beta2) * h * h
        m_hat = self.m[name] / (1 - beta1 ** self.b[name])
        v_hat = self.v[name] / (1 - beta2 ** self.b[name])
        self.w[name] = self.w[name] - lr * m_hat / (np.sqrt(v_hat) + eps)


def course(steps: int, seed: int) -> list[Gradients]:
    """Noise that shrinks, with spikes of entries and of whole steps; now and then none, or zeros.

    `u` is without a gradient at every seventh step and zero at every eleventh; `b` starts with two
    gradients of zeros at step LATE.
    """
    rng = np.random.default_rng(seed)
    found = []
    for step in range(steps):
        grads: Gradients = {}
        for name, shape in SHAPES.items():
            g = rng.normal(size=shape) * 0.2 / (1 + step / 20)
            g[rng.random(shape) < 0.04] *= 50
            if rng.random() < 0.1:
                g *= 30
            grads[name] = g
        if step % 7 == 5:
            del grads["u"]
        elif step % 11 == 8:
            grads["u"] *= 0
        if step < LATE:
            del grads["b"]
        elif step < LATE + 2:
            grads["b"] *= 0
        found.append(grads)
    return found


def assert_equals_oracle(
    make: Callable[..., Optimizer],
    oracle: type[OracleAdam],
    hyper: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float64,
    steps: int = 60,
    seed: int = 0,
    tolerance: float = 1e-11,
) -> OracleAdam:
    """Compare all weights after each step of a changing learning rate; gradients stay untouched.

    Half way, and right before a step that a period of 10 makes special, the optimizer is replaced
    by a new one that loads its saved state.
    """
    rng = np.random.default_rng(seed + 1000)
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    tensors = {
        name: torch.nn.Parameter(torch.from_numpy(value).to(dtype)) for name, value in start.items()
    }
    # The first group's only tensor is not the one with the most gradients.
    groups = [["u"], ["w", "b"]]

    def made() -> Optimizer:
        params = [{"params": [(n, tensors[n]) for n in names]} for names in groups]
        return make(params, **hyper)

    optimizer, expected = made(), oracle(start, hyper)
    for step, grads in enumerate(course(steps, seed)):
        if step in (steps // 2, 19):
            buffer = io.BytesIO()
            torch.save(optimizer.state_dict(), buffer)
            buffer.seek(0)
            optimizer = made()
            optimizer.load_state_dict(torch.load(buffer, weights_only=True))
        lr = 0.02 * (1 + step % 3)
        for group in optimizer.param_groups:
            group["lr"] = lr
        rounded = {}
        for name, tensor in tensors.items():
            tensor.grad = None
            if name in grads:
                tensor.grad = torch.from_numpy(grads[name]).to(dtype)
                rounded[name] = tensor.grad.numpy().astype(np.float64)
        optimizer.step()
        expected.step(rounded, lr)
        for name, tensor in tensors.items():
            np.testing.assert_allclose(
                tensor.detach().numpy(),
                expected.w[name],
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"{name} after step {step + 1}",
            )
            if name in rounded:
                assert tensor.grad is not None
                np.testing.assert_array_equal(tensor.grad.numpy(), rounded[name])
    return expected
