"""Muon with AdamW: torch's Muon against the iteration in float64, AdamW against its definition, and
the optimizer that holds both: its groups, its routing and its one state."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.optim.baselines.combined import Combined
from spam_lab.optim.methods.muon import MuonConfig
from spam_lab.optim.registry import build_optimizer

SHAPES = {"embed": (5, 8), "attn": (8, 8), "tall": (12, 8), "wide": (6, 9), "bias": (8,)}
KINDS = {"embed": "embedding", "attn": "attention", "tall": "ffn", "wide": "ffn", "bias": "ffn"}
MATRICES = ("attn", "tall", "wide")
HYPER: dict[str, Any] = {
    **{"lr": 0.02, "adam_lr": 0.005, "weight_decay": 0.1, "momentum": 0.9},
    **{"beta1": 0.8, "beta2": 0.95, "eps": 1e-4},
}


def made(**more: Any) -> tuple[dict[str, torch.nn.Parameter], Combined]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }
    named = [(name, KINDS[name], weight) for name, weight in weights.items()]
    optimizer = build_optimizer(MuonConfig(**{**HYPER, **more}), named, 0)
    assert isinstance(optimizer, Combined)
    return weights, optimizer


def reloaded(weights: dict[str, torch.nn.Parameter], optimizer: Combined, **more: Any) -> Any:
    """Weights and optimizer of a new process, which read the state from a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others, other = made(**more)
    for name, weight in weights.items():
        others[name].data.copy_(weight.data)
    other.load_state_dict(torch.load(file, weights_only=True))
    return others, other


def polynomial(matrix: np.ndarray, steps: int) -> np.ndarray:
    """What the iteration X := aX + b(XX')X + c(XX')(XX')X does, without rounding.

    It maps each singular value s to as + bs^3 + cs^5 and leaves the singular vectors.
    """
    left, values, right = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ np.diag(values) @ right


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_both_parts_are_the_published_updates(nesterov: bool, adjust: str) -> None:
    """Momentum and AdamW to 12 digits; the iteration as near as torch's bfloat16 brings it.

    Over 3000 random matrices of these shapes the distance was 1.8 % in the mean and 12 % at most.
    Here the mean over all matrices must be below 3 %, and above 10 % for the rules that these are
    not: one iteration fewer, and the other momentum.
    """
    options: dict[str, Any] = {"nesterov": nesterov, "adjust_lr_fn": adjust, "ns_steps": 5}
    weights, optimizer = made(**options)
    b = {name: np.zeros(SHAPES[name]) for name in MATRICES}
    m = {name: np.zeros(SHAPES[name]) for name in ("embed", "bias")}
    v = {name: np.zeros(SHAPES[name]) for name in ("embed", "bias")}
    random = np.random.default_rng(1)
    distances = []
    for t in range(1, 11):
        if t == 5:
            weights, optimizer = reloaded(weights, optimizer, **options)
        lr = 0.02 * (1 + t % 3)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_ratio", 1.0)
        grads = {n: random.normal(size=s) * (1 + t % 4) for n, s in SHAPES.items()}
        before = {name: weight.detach().numpy().copy() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(grads[name].copy())
        optimizer.step()
        for name, weight in weights.items():
            g, w = grads[name], before[name]
            np.testing.assert_array_equal(weight.grad.numpy(), g)
            if name in MATRICES:
                b[name] = 0.9 * b[name] + 0.1 * g
                buffer = optimizer.state[weight]["momentum_buffer"].numpy()
                np.testing.assert_allclose(buffer, b[name], rtol=1e-12)
                rows, columns = SHAPES[name]
                original = math.sqrt(max(1.0, rows / columns))
                rate = lr * (original if adjust == "original" else 0.2 * max(rows, columns) ** 0.5)
                found = (w * (1 - lr * 0.1) - weight.detach().numpy()) / rate
                ahead = 0.1 * g + 0.9 * b[name]
                right, wrong = (ahead, b[name]) if nesterov else (b[name], ahead)
                rules = ((right, 5), (right, 4), (wrong, 5))
                distances.append([far(found, polynomial(*rule)) for rule in rules])
            else:
                m[name] = 0.8 * m[name] + 0.2 * g
                v[name] = 0.95 * v[name] + 0.05 * g * g
                rate = lr * 0.25
                step = (m[name] / (1 - 0.8**t)) / (np.sqrt(v[name] / (1 - 0.95**t)) + 1e-4)
                expected = w * (1 - rate * 0.1) - rate * step
                np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-12)
    own, fewer, other = np.mean(distances, axis=0)
    assert own < 0.03 and min(fewer, other) > 0.1


def far(found: np.ndarray, expected: np.ndarray) -> float:
    """The distance relative to what was expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_kinds_and_shapes_decide_who_trains() -> None:
    _, optimizer = made()
    found = {
        name: (group["member"], group["kind"])
        for group in optimizer.param_groups
        for name in group["param_names"]
    }
    assert found == {
        "embed": ("adam", "embedding"),
        "attn": ("muon", "attention"),
        "tall": ("muon", "ffn"),
        "wide": ("muon", "ffn"),
        "bias": ("adam", "ffn"),
    }
    assert [group.get("lr_ratio") for group in optimizer.param_groups] == [0.25, 1.0, 1.0, 0.25]
    adam = optimizer.members["adam"].param_groups
    assert len(adam) == 2 and all(group["fused"] for group in adam)


def test_the_members_read_the_groups_and_states_that_the_optimizer_shows() -> None:
    weights, optimizer = made()
    for turn in ("new", "loaded", "copied"):
        members = optimizer.members.values()
        shown = {id(group) for group in optimizer.param_groups}
        assert {id(group) for member in members for group in member.param_groups} == shown
        assert all(member.state is optimizer.state for member in members)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        for weight in weights.values():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert all(torch.equal(weight, before[name]) for name, weight in weights.items()), turn
        if turn == "new":
            weights, optimizer = reloaded(weights, optimizer)
        else:
            weights, optimizer = copy.deepcopy((weights, optimizer))


def test_a_late_group_is_split_and_trained() -> None:
    _, optimizer = made()
    matrix, bias = (torch.nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in [(3, 4), (4,)])
    group = {"params": [("late", matrix), ("late.bias", bias)], "kind": "ffn"}
    optimizer.add_param_group(group)
    added = optimizer.param_groups[-2:]
    assert [(g["member"], g["param_names"]) for g in added] == [
        ("muon", ["late"]),
        ("adam", ["late.bias"]),
    ]
    assert [g["lr"] for g in added] == [0.02, 0.005]
    for parameter in (matrix, bias):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert (matrix < 1).all() and (bias < 1).all()
    assert set(optimizer.state) == {matrix, bias}


def test_a_model_may_have_nothing_for_a_member() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(MuonConfig(**HYPER), [("norm", "norm", weight)], 0)
    weight.grad = torch.ones(3)
    optimizer.step()
    assert (weight < 1).all()
    with pytest.raises(ValueError, match="appear in more than one parameter group"):
        optimizer.add_param_group({"params": [("again", weight)], "kind": "norm"})
