"""What an optimizer keeps between steps, counted by running its own code.

This module owns the account: bytes of weights, and of every tensor in the optimizer's state, sorted
by what it is for. It promises the truth of the code, not of a formula: the optimizer is built by
the registry and takes real steps. On the meta device nothing is allocated; there the sizes are
those of the full model all the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spam_lab.config.schema import OptimizerConfig
from spam_lab.optim.registry import build_optimizer, prepare_model

KINDS = ("moments", "masks", "projectors", "other")
"""What state can be for. Projectors are bases and what they are computed from; other is whatever no
pattern knows: step counters, a norm or a scale a tensor."""

_PATTERNS = (
    ("masks", re.compile(r"mask|select|indices|positions")),
    ("projectors", re.compile(r"proj|basis|covariance|subspace")),
    ("moments", re.compile(r"exp_avg|avg_sq|moment|grad_mean|grad_var")),
)
STEPS = 2
"""Steps taken: some state is there only after the second."""

Shape = tuple[str, str, tuple[int, ...]]
"""Name, kind and size of one tensor."""

Named = list[tuple[str, str, nn.Parameter]]
"""Parameters to train, as (name, kind, parameter)."""

NamedKinds = Callable[[nn.Module], Named]


@dataclass(frozen=True)
class Memory:
    """Bytes of a model's weights, and of its optimizer's state by key.

    Attributes:
        weights: of all parameters, frozen ones included.
        trained: of the parameters that the optimizer has; gradients take as much again.
        entries: how many weights there are.
        state: bytes by key of the optimizer's state.
        how: on what it was counted.
    """

    weights: int
    trained: int
    entries: int
    state: Mapping[str, int]
    how: str

    def of(self, kind: str) -> int:
        """Bytes of one of `KINDS`."""
        return sum(size for key, size in self.state.items() if kind_of(key) == kind)

    @property
    def optimizer(self) -> int:
        """Bytes of all state."""
        return sum(self.state.values())

    @property
    def total(self) -> int:
        """Weights and state, as the paper's Table 3 counts: no gradients, no activations."""
        return self.weights + self.optimizer


@cache
def kind_of(key: str) -> str:
    """What a state key is for, one of `KINDS`."""
    return next((kind for kind, pattern in _PATTERNS if pattern.search(key)), "other")


def account(
    config: OptimizerConfig, model: nn.Module, named_kinds: NamedKinds, seed: int = 0
) -> Memory:
    """Train `model` for two steps on gradients of ones and count what is kept.

    Args:
        config: of the method; the model is prepared as it asks.
        model: on any device, meta included; changed.
        named_kinds: the parameters to train, as (name, kind, parameter).
        seed: of whatever the method draws.

    Raises:
        RuntimeError: on the meta device, where the method needs the values of its tensors.
    """
    prepare_model(config, model, seed)
    named = named_kinds(model)
    optimizer = build_optimizer(config, named, seed)
    for _ in range(STEPS):
        for _, _, parameter in named:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    weights = list(model.parameters())
    return Memory(
        weights=sum(weight.numel() * weight.element_size() for weight in weights),
        trained=sum(weight.numel() * weight.element_size() for _, _, weight in named),
        entries=sum(weight.numel() for weight in weights),
        state=state_bytes(optimizer),
        how=f"{weights[0].device.type} tensors",
    )


def state_bytes(optimizer: Optimizer) -> dict[str, int]:
    """Bytes of memory behind every tensor in `optimizer.state`, by key.

    A view holds all of what it is cut from, and memory that two tensors share counts once. Plain
    numbers and strings count nothing.
    """
    sizes: Counter[str] = Counter()
    seen = set()
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, Tensor):
                memory = value.untyped_storage()
                sizes[key] += 0 if memory._cdata in seen else memory.nbytes()
                seen.add(memory._cdata)
    return dict(sizes)


def extended(one: Memory, two: Memory, layers: int) -> Memory:
    """The account of `layers` equal layers, from those of one layer and of two.

    Exact for an optimizer that treats every layer alike: the first has all that is outside the
    layers, and each further one adds what the second added.
    """

    def at(first: int, second: int) -> int:
        return first + (layers - 1) * (second - first)

    keys = dict.fromkeys((*one.state, *two.state))
    return Memory(
        weights=at(one.weights, two.weights),
        trained=at(one.trained, two.trained),
        entries=at(one.entries, two.entries),
        state={key: at(one.state.get(key, 0), two.state.get(key, 0)) for key in keys},
        how=f"{one.how} of 1 and 2 layers, carried on to {layers}",
    )
