"""APOLLO and APOLLO-Mini against their definition in float64, through new projections, the norm
limiter and a file; and that nothing but low-rank moments is kept."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.optim.baselines.apollo import APOLLO, random_projection
from spam_lab.optim.methods.apollo import ApolloConfig
from spam_lab.optim.registry import build_optimizer
from spam_lab.optim.selection import stream_seed

HYPER = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1, "update_interval": 4}
SEED = 5
# In the order of the optimizer's groups, which numbers the streams. "late" starts with gradients of
# zero, and has another just before its spike.
SHAPES = {
    **{"embed": (5, 6), "square": (6, 6), "tall": (7, 5), "wide": (4, 9)},
    **{"late": (5, 4), "bias": (6,)},
}
KINDS = {"embed": "embedding", "square": "attention"}
PROJECTED = ("square", "tall", "wide", "late")
FORMS = {
    "apollo": {"rank": 3, "scale": 2.0, "scale_by": "channel", "norm_growth": 1.2},
    "mini": {"rank": 1, "scale": 16.0, "scale_by": "tensor", "norm_growth": 1.01},
    "unlimited": {"rank": 2, "scale": 1.0, "scale_by": "channel", "norm_growth": None},
}


def made(form: str) -> tuple[dict[str, torch.nn.Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }
    named = [(name, KINDS.get(name, "ffn"), weight) for name, weight in weights.items()]
    return weights, build_optimizer(ApolloConfig(lr=1.0, **HYPER, **FORMS[form]), named, SEED)


def gradient(name: str, step: int) -> np.ndarray:
    random = np.random.default_rng([step, len(name)])
    sizes = np.linspace(0.1, 2, SHAPES[name][0]).reshape(-1, *[1] * (len(SHAPES[name]) - 1))
    size = {5: 30.0, 9: 0.1}.get(step, 1.0) * (0 if name == "late" and step in (0, 1, 4) else 1)
    return random.normal(size=SHAPES[name]) * sizes * size


class Oracle:
    """One tensor. Channels are columns: a tall matrix is turned on its side."""

    def __init__(self, w: np.ndarray, number: int, form: dict[str, Any] | None) -> None:
        self.form, self.number = form, number
        self.turned = form is not None and w.shape[0] >= w.shape[1]
        self.w = w.T.copy() if self.turned else w.copy()
        self.m = self.v = 0.0
        self.t = self.limited = 0
        self.last: float | None = None

    def step(self, g: np.ndarray, lr: float) -> None:
        g = g.T if self.turned else g
        self.t += 1
        r = g if self.form is None else self.projection(g).T @ g
        self.m = 0.8 * self.m + 0.2 * r
        self.v = 0.9 * self.v + 0.1 * r**2
        n = self.m / (np.sqrt(self.v) + 1e-3)
        if self.form is not None:
            n = self.rescaled(g, r, n)
        self.w = self.w - lr * 0.1 * self.w
        self.w = self.w - lr * math.sqrt(1 - 0.9**self.t) / (1 - 0.8**self.t) * n

    def projection(self, g: np.ndarray) -> np.ndarray:
        """The documented stream: torch's normal numbers in float32, over the root of the rank."""
        seed = stream_seed(SEED, self.number, (self.t - 1) // 4)
        drawn = torch.randn(
            g.shape[0], self.form["rank"], generator=torch.Generator().manual_seed(seed)
        )
        # Divided in float32 by the root of the rank, as the optimizer does.
        return (drawn.numpy() / np.float32(math.sqrt(self.form["rank"]))).astype(np.float64)

    def rescaled(self, g: np.ndarray, r: np.ndarray, n: np.ndarray) -> np.ndarray:
        if self.form["scale_by"] == "channel":
            lengths = [
                np.linalg.norm(n[:, j]) / (np.linalg.norm(r[:, j]) + 1e-8)
                for j in range(r.shape[1])
            ]
        else:
            lengths = [np.linalg.norm(n) / (np.linalg.norm(r) + 1e-8)] * r.shape[1]
        update = g @ np.diag(lengths) * self.form["scale"] ** 0.5
        size = np.linalg.norm(update)
        growth = self.form["norm_growth"]
        if growth and self.last is not None and size > growth * self.last:
            update = update / size * growth * self.last
            size = growth * self.last
            self.limited += 1
        if size > 0:
            self.last = size
        return update

    def weight(self) -> np.ndarray:
        return self.w.T if self.turned else self.w


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_published_update(form: str) -> None:
    weights, optimizer = made(form)
    oracles = {
        name: Oracle(w.detach().numpy(), number, FORMS[form] if name in PROJECTED else None)
        for number, (name, w) in enumerate(weights.items())
    }
    random = torch.get_rng_state()
    for step in range(14):
        if step == 6:  # goes on from a file, between two projections
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            values = {name: weight.detach().clone() for name, weight in weights.items()}
            weights, optimizer = made(form)
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
            oracles[name].step(gradient(name, step), lr)
            np.testing.assert_allclose(
                weight.detach().numpy(), oracles[name].weight(), rtol=1e-9, atol=1e-9, err_msg=name
            )
    assert torch.equal(random, torch.get_rng_state()), "nothing is drawn from the global state"
    limited = [oracles[name].limited for name in PROJECTED]
    assert all(0 < n < 13 for n in limited) or FORMS[form]["norm_growth"] is None


@pytest.mark.parametrize("form", FORMS)
def test_no_projection_and_nothing_of_full_size_is_kept(form: str) -> None:
    weights, optimizer = made(form)
    for name, weight in weights.items():
        weight.grad = torch.from_numpy(gradient(name, 0))
    optimizer.step()
    limiter = set() if FORMS[form]["norm_growth"] is None else {"update_norm"}
    for name in PROJECTED:
        state = optimizer.state[weights[name]]
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq"} | limiter
        for key in ("exp_avg", "exp_avg_sq"):
            elements = state[key].untyped_storage().nbytes() // 8
            assert elements == FORMS[form]["rank"] * max(SHAPES[name])
        assert all(state[key].numel() == 1 for key in limiter)


def test_memory_can_be_counted_without_values() -> None:
    """Adam's two moments of 512 x 1376, at rank 128 a quarter of them, and no projector."""
    with torch.device("meta"):
        weight = torch.nn.Parameter(torch.empty(512, 1376))
        optimizer = APOLLO([weight], lr=0.1, rank=128)
        weight.grad = torch.empty_like(weight)
        optimizer.step()
    moments = [optimizer.state[weight][key].numel() for key in ("exp_avg", "exp_avg_sq")]
    assert sum(moments) == 2 * 512 * 1376 / 4


def test_projections_are_gaussian_and_of_variance_one_over_the_rank() -> None:
    drawn = random_projection(400, 50, 1, torch.empty(0))
    assert drawn.shape == (400, 50)
    # 20,000 numbers: six standard errors of each moment.
    assert abs(drawn.mean()) < 6 * math.sqrt(1 / 50 / 20_000)
    assert abs(drawn.var() * 50 - 1) < 6 * math.sqrt(2 / 20_000)
    assert abs((drawn**4).mean() * 50**2 - 3) < 6 * math.sqrt(96 / 20_000)
    assert not torch.equal(drawn, random_projection(400, 50, 2, torch.empty(0)))


def test_an_unknown_scale_and_a_rank_too_large_are_refused() -> None:
    weight = torch.nn.Parameter(torch.ones(6, 4))
    with pytest.raises(ValueError, match="scale_by='row' is not allowed: one of channel, tensor"):
        APOLLO([weight], lr=0.1, rank=2, scale_by="row")
    with pytest.raises(ValueError, match=r"rank=5 is not allowed .* at most its smaller side, 4"):
        APOLLO([weight], lr=0.1, rank=5)
