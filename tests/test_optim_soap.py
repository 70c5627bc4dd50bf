"""SOAP against Algorithms 3 and 4 in float64, with bases that are refreshed, sides too large to
have one, and through a file; and what it does with gradients that have no eigenvectors."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.optim.methods.soap import SoapConfig
from spam_lab.optim.registry import build_optimizer

HYPER = {"beta1": 0.9, "beta2": 0.8, "eps": 1e-4, "weight_decay": 0.1}
EVERY, LARGEST = 3, 7
# "wide" has a side longer than LARGEST, "tall" a first L of deficient rank.
SHAPES = {"square": (6, 6), "wide": (4, 9), "tall": (7, 5), "bias": (6,), "embed": (5, 6)}
KINDS = {"square": "attention", "wide": "ffn", "tall": "ffn", "bias": "ffn", "embed": "embedding"}


def made(dtype: torch.dtype = torch.float64) -> tuple[dict[str, torch.nn.Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.nn.Parameter(
            torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        )
        for name, shape in SHAPES.items()
    }
    named = [(name, KINDS[name], weight) for name, weight in weights.items()]
    config = SoapConfig(lr=1.0, precondition_every=EVERY, largest_side=LARGEST, **HYPER)
    return weights, build_optimizer(config, named, 0)


def gradient(name: str, step: int) -> np.ndarray:
    """Noise of a different size in every row, so that the basis matters; some steps spike.

    Half-way the large rows become the small ones, so that eigenvalues change places.
    """
    random = np.random.default_rng([step, len(name)])
    shape = SHAPES[name]
    sizes = np.linspace(0.2, 3, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    sizes = sizes[::-1] if step > 7 else sizes
    return random.normal(size=shape) * sizes * (20 if step % 6 == 0 else 1)


class OracleMatrix:
    """One preconditioned matrix. `first` are the bases that the optimizer chose at the start."""

    def __init__(self, w: np.ndarray, g: np.ndarray, first: list[np.ndarray | None]) -> None:
        self.w, self.t = w.copy(), 0
        self.m, self.v = np.zeros_like(w), np.zeros_like(w)
        self.covariance = [0.2 * g @ g.T, 0.2 * g.T @ g]
        self.basis = [
            np.eye(c.shape[0]) if q is None else checked_basis(c, q)
            for c, q in zip(self.covariance, first, strict=True)
        ]
        self.moves = [q is not None for q in first]
        self.resorted = 0

    def step(self, g: np.ndarray, lr: float) -> None:
        self.t += 1
        p, q = self.basis
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.8 * self.v + 0.2 * (p.T @ g @ q) ** 2
        m_hat = (p.T @ self.m @ q) / (1 - 0.9**self.t)
        inner = m_hat * math.sqrt(1 - 0.8**self.t) / (np.sqrt(self.v) + 1e-4)
        self.w = (1 - lr * 0.1) * self.w - lr * (p @ inner @ q.T)
        for side, outer in enumerate((g @ g.T, g.T @ g)):
            self.covariance[side] = 0.8 * self.covariance[side] + 0.2 * outer
        if self.t % EVERY == 0:
            for side in (0, 1):
                if self.moves[side]:
                    self.turn(side)

    def turn(self, side: int) -> None:
        """Gram-Schmidt of L P, which is its QR factor up to signs that cancel in every step."""
        c, p = self.covariance[side], self.basis[side]
        values = [p[:, i] @ c @ p[:, i] for i in range(len(p))]
        order = sorted(range(len(p)), key=lambda i: -values[i])
        self.resorted += order != sorted(order)
        columns: list[np.ndarray] = []
        for i in order:
            column = c @ p[:, i]
            for _ in range(2):
                for earlier in columns:
                    column = column - earlier * (earlier @ column)
            columns.append(column / np.linalg.norm(column))
        self.basis[side] = np.stack(columns, axis=1)
        self.v = self.v[order] if side == 0 else self.v[:, order]


def checked_basis(c: np.ndarray, q: np.ndarray) -> np.ndarray:
    """q, which must be orthogonal and hold the eigenvectors of c by falling eigenvalue.

    The null space of a first L has no basis of its own, so the optimizer's is taken over.
    """
    np.testing.assert_allclose(q.T @ q, np.eye(len(q)), atol=1e-12)
    falling = np.linalg.eigvalsh(c)[::-1]
    np.testing.assert_allclose(q.T @ c @ q, np.diag(falling), atol=1e-12 * falling[0])
    return q


def advance(weights: dict[str, torch.nn.Parameter], optimizer: Any, step: int, lr: float) -> None:
    for name, weight in weights.items():
        weight.grad = torch.from_numpy(gradient(name, step)).to(weight.dtype)
    before = {name: weight.grad.clone() for name, weight in weights.items()}
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    assert all(torch.equal(weight.grad, before[name]) for name, weight in weights.items())


def test_it_is_the_published_update() -> None:
    weights, optimizer = made()
    plain = {name: weights[name].detach().numpy().copy() for name in ("bias", "embed")}
    m = {name: np.zeros(SHAPES[name]) for name in plain}
    v = {name: np.zeros(SHAPES[name]) for name in plain}
    matrices: dict[str, OracleMatrix] = {}
    for step in range(1, 16):
        if step == 9:  # goes on from a file
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            values = {name: weight.detach().clone() for name, weight in weights.items()}
            weights, optimizer = made()
            for name, value in values.items():
                weights[name].data.copy_(value)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        lr = 0.01 * (1 + step % 3)
        start = {name: weight.detach().numpy().copy() for name, weight in weights.items()}
        advance(weights, optimizer, step, lr)
        for name in ("square", "wide", "tall"):
            g = gradient(name, step)
            if step == 1:
                state = optimizer.state[weights[name]]
                bases = [state.get(f"basis_{side}") for side in (0, 1)]
                first = [None if basis is None else basis.numpy() for basis in bases]
                matrices[name] = OracleMatrix(start[name], g, first)
            else:
                matrices[name].step(g, lr)
            found = weights[name].detach().numpy()
            np.testing.assert_allclose(found, matrices[name].w, rtol=1e-8, err_msg=name)
        for name, w in plain.items():
            g = gradient(name, step)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.8 * v[name] + 0.2 * g * g
            w -= lr * 0.1 * w
            w -= lr * (m[name] / (1 - 0.9**step)) / (np.sqrt(v[name] / (1 - 0.8**step)) + 1e-4)
            np.testing.assert_allclose(weights[name].detach().numpy(), w, rtol=1e-11)
    assert matrices["wide"].moves == [True, False] and matrices["tall"].moves == [True, True]
    assert all(matrix.resorted for matrix in matrices.values()), "columns changed places"


def test_the_bases_stay_orthogonal_and_approach_the_eigenvectors() -> None:
    weight = torch.nn.Parameter(torch.zeros(5, 5, dtype=torch.float64))
    config = SoapConfig(lr=0.01, precondition_every=1)
    optimizer = build_optimizer(config, [("w", "ffn", weight)], 0)
    random = np.random.default_rng(0)
    sizes = torch.tensor([[1.0], [3.0], [9.0], [27.0], [81.0]], dtype=torch.float64)
    for _ in range(200):
        weight.grad = sizes * torch.from_numpy(random.normal(size=(5, 5)))
        optimizer.step()
    state = optimizer.state[weight]
    basis, matrix = state["basis_0"], state["covariance_0"]
    torch.testing.assert_close(basis.T @ basis, torch.eye(5, dtype=torch.float64))
    inside = basis.T @ matrix @ basis
    scale = inside.diagonal().sqrt()
    off = inside / torch.outer(scale, scale) - torch.eye(5, dtype=torch.float64)
    assert off.abs().max() < 0.1


def test_half_precision_weights_have_float32_states() -> None:
    weights, optimizer = made(torch.bfloat16)
    for step in range(1, 8):
        advance(weights, optimizer, step, 0.01)
    tensors = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
    assert {value.dtype for value in tensors} == {torch.float32}
    assert all(weight.dtype == torch.bfloat16 for weight in weights.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_first_gradient_that_is_broken_breaks_the_next_step(value: float) -> None:
    """The first only makes the basis, which must not look sound."""
    weights, optimizer = made(torch.float32)
    for step in (1, 2):
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(gradient(name, step)).float()
            if step == 1:
                weight.grad.view(-1)[0] = value
        optimizer.step()
    for name in ("square", "wide", "tall"):
        assert not weights[name].isfinite().any(), name


def test_a_matrix_without_any_gradient_at_first_still_trains() -> None:
    """Zeros have every basis: the identity will do."""
    weight = torch.nn.Parameter(torch.zeros(3, 4))
    optimizer = build_optimizer(
        SoapConfig(lr=0.01, precondition_every=1), [("w", "ffn", weight)], 0
    )
    for step in range(4):
        weight.grad = torch.full((3, 4), float(step == 3))
        optimizer.step()
    assert weight.isfinite().all() and (weight < 0).all()
