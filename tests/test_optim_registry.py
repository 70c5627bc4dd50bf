"""The registry: discovery without torch, typed building, and every knob reaching the update."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch

from spam_lab.config.fields import ConfigError, problems
from spam_lab.config.schema import OptimizerConfig
from spam_lab.optim import SPAM
from spam_lab.optim.clip import clip_gradients
from spam_lab.optim.methods.adam import AdamConfig
from spam_lab.optim.methods.spam import SpamConfig
from spam_lab.optim.registry import build_optimizer, method, methods

KINDS = ("norm", "head", "ffn", "embedding", "attention", "ffn")


def named() -> list[tuple[str, str, torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (f"p{i}", kind, torch.nn.Parameter(torch.randn(4, 5, generator=generator)))
        for i, kind in enumerate(KINDS)
    ]


def trained(config: OptimizerConfig, seed: int = 0) -> list[Any]:
    """Weights after steps whose gradients spike, as the training loop takes them."""
    members = named()
    optimizer = build_optimizer(config, members, seed)
    generator = torch.Generator().manual_seed(1)
    for step in range(16):
        for _, _, parameter in members:
            grad = torch.randn(parameter.shape, generator=generator)
            grad[0, 0] = 0.0 if step < 8 else 1.0  # silent until a grace is over
            parameter.grad = grad * (100.0 if step % 5 == 4 else 1.0)
        clip_gradients([p for _, _, p in members], config.clip_value, config.clip_norm)
        optimizer.step()
    return [parameter.tolist() for _, _, parameter in members]


def test_discovery_loads_no_torch() -> None:
    """Configs are composed and planned in processes that never need torch."""
    code = (
        "import sys, spam_lab.optim\n"
        "from spam_lab.optim.registry import methods\n"
        "assert {'adam', 'spam'} <= set(methods()), methods()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_methods_are_sorted_and_named_like_their_configs() -> None:
    found = methods()
    assert list(found) == sorted(found)
    for name, entry in found.items():
        assert entry.name == name and entry.config.name == name  # type: ignore[comparison-overlap]


def test_a_name_cannot_be_taken_twice() -> None:
    methods()
    with pytest.raises(ValueError, match="two optimizers are named 'adam'"):
        method("adam", AdamConfig)(lambda groups, config, seed: None)


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.name=spma is not allowed: try spam"):
        build_optimizer(SpamConfig(name="spma", lr=0.1), named(), 0)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind='bias' of w is not allowed: one of embedding"):
        build_optimizer(AdamConfig(lr=0.1), [("w", "bias", torch.nn.Parameter(torch.ones(1)))], 0)


def test_groups_follow_the_kinds_and_density_the_matrices() -> None:
    optimizer = build_optimizer(SpamConfig(lr=0.1, density=0.25), named(), 0)
    assert isinstance(optimizer, SPAM)
    found = {group["kind"]: group["density"] for group in optimizer.param_groups}
    assert found == {"embedding": 1.0, "attention": 0.25, "ffn": 0.25, "norm": 1.0, "head": 1.0}
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1, 2, 1, 1]
    assert optimizer.param_groups[2]["param_names"] == ["p2", "p5"]


@pytest.mark.parametrize(("decay", "expected"), [(0.0, "Adam"), (0.1, "AdamW")])
def test_adam_is_torchs_own(decay: float, expected: str) -> None:
    optimizer = build_optimizer(AdamConfig(lr=0.1, weight_decay=decay), named(), 0)
    assert type(optimizer).__name__ == expected
    assert all(group["fused"] for group in optimizer.param_groups)


# What to compare for each field: two configs that differ in it alone.
COMMON = {
    "lr": (0.01, 0.02),
    "weight_decay": (0.0, 0.1),
    "clip_value": (None, 0.01),
    "clip_norm": (None, 0.1),
    "beta1": (0.9, 0.8),
    "beta2": (0.99, 0.9),
    "eps": (1e-6, 1e-1),
}
PAIRS: dict[type[OptimizerConfig], dict[str, tuple[Any, Any]]] = {
    AdamConfig: COMMON,
    SpamConfig: {
        **COMMON,
        "delta_t": (6, 7),
        "theta": (50.0, 20.0),
        "warmup_steps": (2, 3),
        "density": (0.5, 0.6),
        "selection": ("random", "gradient_magnitude"),
        "spike_rule": ("clip", "nullify"),
        "grace_steps": (2, 5),
        "clip_at_zero_moment": (False, True),
        "bias_correction": ("running", "restarted"),
        "unselected": ("freeze", "sgd"),
        "reselected": ("reset", "keep"),
        "state_dtype": (None, "bfloat16"),
        "arithmetic": ("fused", "stepwise"),
    },
}
NOT_KNOBS = {"name", "learning_rates", "densities"}
BASES: dict[type[OptimizerConfig], dict[str, Any]] = {
    AdamConfig: {"lr": 0.01},
    SpamConfig: {
        **{"lr": 0.01, "delta_t": 6, "theta": 50.0, "warmup_steps": 2, "density": 0.5},
        **{"grace_steps": 2, "beta2": 0.99},
    },
}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (config, field.name)
        for config in PAIRS
        for field in dataclasses.fields(config)
        if field.name not in NOT_KNOBS
    ],
)
def test_every_knob_reaches_the_update(config: type[OptimizerConfig], field: str) -> None:
    """A field that moves no weight is a field that lies; a new one needs a pair above."""
    base = BASES[config]
    if field == "arithmetic":
        base = {**base, "state_dtype": "bfloat16"}
    first, second = (config(**{**base, field: value}) for value in PAIRS[config][field])
    assert problems(first) == problems(second) == []
    assert trained(first) != trained(second)
    assert trained(first) == trained(first)


def test_the_seed_reaches_the_masks() -> None:
    config = SpamConfig(**BASES[SpamConfig])
    assert trained(config, seed=0) != trained(config, seed=1)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, []),
        ({"delta_t": None, "warmup_steps": 0}, []),
        ({"delta_t": None}, ["optimizer.warmup_steps"]),
        (
            {"delta_t": None, "warmup_steps": 0, "reselected": "keep"},
            ["optimizer.reselected"],
        ),
        (
            {"reselected": "keep", "bias_correction": "restarted"},
            ["optimizer.bias_correction"],
        ),
    ],
)
def test_contradictions_are_found(options: dict[str, Any], keys: list[str]) -> None:
    assert [found.key for found in SpamConfig(lr=0.1, **options).cross_problems()] == keys


def test_defaults_of_config_and_class_agree() -> None:
    """The paper's defaults are written in two places; they are the same."""
    by_config = build_optimizer(SpamConfig(lr=1e-3), named(), 0)
    by_class = SPAM([torch.nn.Parameter(torch.ones(1))])
    assert by_config.defaults == by_class.defaults


@pytest.mark.parametrize(
    "field",
    [
        field
        for field in dataclasses.fields(SpamConfig)
        if {"interval", "options"} & set(field.metadata)
    ],
    ids=lambda field: field.name,
)
def test_out_of_range_values_are_refused(field: dataclasses.Field[Any]) -> None:
    bad = "nonsense" if "options" in field.metadata else field.metadata["interval"].low - 1
    found = problems(SpamConfig(**{"lr": 0.1, field.name: bad}))
    assert [problem.key for problem in found] == [field.name]
