"""The registry: discovery without torch, typed building, and every knob reaching the update."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch

from spam_lab.config.fields import ConfigError, problems
from spam_lab.optim import SPAM
from spam_lab.optim.methods.adam import AdamConfig
from spam_lab.optim.methods.spam import SpamConfig
from spam_lab.optim.registry import build_optimizer, method, methods
from tests import knobs
from tests.tiny_network import train

KINDS = ("norm", "head", "ffn", "embedding", "attention", "ffn")


def named() -> list[tuple[str, str, torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (f"p{i}", kind, torch.nn.Parameter(torch.randn(4, 5, generator=generator)))
        for i, kind in enumerate(KINDS)
    ]


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


KNOBS = [
    (name, field.name)
    for name, method_ in methods().items()
    for field in dataclasses.fields(method_.config)
    if field.name not in knobs.NOT_KNOBS
]


@pytest.mark.parametrize(("name", "field"), KNOBS)
def test_every_knob_reaches_the_update(name: str, field: str) -> None:
    """A field that moves no weight is a field that lies; a new one needs a pair in tests/knobs."""
    base, pairs = knobs.of(name)
    first, second, *needs = pairs[field]
    config = methods()[name].config
    options = {**base, **(needs[0] if needs else {})}
    one, other = (config(**{**options, field: value}) for value in (first, second))
    for found in (one, other):
        own_check = getattr(found, "cross_problems", list)
        assert problems(found) == own_check() == []
    weights = train(one)
    assert weights != train(other)
    assert weights == train(one), "training twice gives the same weights"


def test_the_seed_reaches_the_masks() -> None:
    config = SpamConfig(**knobs.of("spam")[0])
    assert train(config, seed=0) != train(config, seed=1)


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
