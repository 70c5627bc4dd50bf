"""The paths of sampled weights through training: gradient, m and v of each, step by step.

It owns which weights are followed: so many of each kind in each layer, drawn without replacement by
a seed of their own, so that runs of different methods and seeds follow the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from spam_lab.models.kinds import module_layer
from spam_lab.optim.entry_moments import moments_at

Sizes = Sequence[tuple[str, str, int]]
"""Name, kind and number of entries of each tensor."""

VALUES = ("gradient", "m", "v")


@dataclass(frozen=True)
class Coordinate:
    """One weight.

    Attributes:
        tensor: position of its tensor among those that train.
        index: its flat position in the tensor.
        group_entries: weights of its kind in its layer, which it was drawn from.
    """

    tensor: int
    index: int
    group_entries: int


def sample(sizes: Sizes, each: int, seed: int) -> list[Coordinate]:
    """`each` weights of every kind in every layer, or all where there are fewer; by tensor and
    index."""
    groups: dict[tuple[str, int | None], list[int]] = {}
    for tensor, (name, kind, _) in enumerate(sizes):
        groups.setdefault((kind, module_layer(name)), []).append(tensor)
    found = []
    for (kind, layer), tensors in groups.items():
        ends = list(accumulate(sizes[tensor][2] for tensor in tensors))
        draw = random.Random(f"{seed} {kind} {layer}")
        for place in draw.sample(range(ends[-1]), min(each, ends[-1])):
            number = next(i for i, end in enumerate(ends) if place < end)
            index = place - ends[number] + sizes[tensors[number]][2]
            found.append(Coordinate(tensors[number], index, ends[-1]))
    return sorted(found, key=lambda one: (one.tensor, one.index))


class Trajectories:
    """What the sampled weights go through in a window of steps.

    Args:
        parameters: the tensors, on one device.
        coordinates: from `sample` of these tensors.
        window: steps in the window, counted from 1.

    Attributes:
        values: float32, (window, 3, coordinates): gradient, m and v; NaN where there is none.
    """

    def __init__(
        self, parameters: Sequence[Tensor], coordinates: Sequence[Coordinate], window: int
    ) -> None:
        device = parameters[0].device
        shape = (window, len(VALUES), len(coordinates))
        self.values = torch.full(shape, torch.nan, device=device)
        self._parts: list[tuple[Tensor, slice, Tensor]] = []
        first = 0
        for number, parameter in enumerate(parameters):
            indices = [one.index for one in coordinates if one.tensor == number]
            if indices:
                last = first + len(indices)
                chosen = torch.tensor(indices, device=device)
                self._parts.append((parameter, slice(first, last), chosen))
                first = last

    @torch.no_grad()
    def add_gradients(self, step: int) -> None:
        """Take the gradients of one step. A parameter without one has gradients of zero."""
        for parameter, columns, indices in self._parts:
            row = self.values[step - 1, 0, columns]
            if parameter.grad is None:
                row.zero_()
            else:
                row.copy_(parameter.grad.reshape(-1)[indices])

    @torch.no_grad()
    def add_moments(self, step: int, optimizer: Optimizer) -> None:
        """Take m and v as the step left them."""
        for parameter, columns, indices in self._parts:
            self.values[step - 1, 1:, columns] = moments_at(optimizer, parameter, indices)

    @property
    def bytes(self) -> int:
        """What is held."""
        return self.values.numel() * self.values.element_size()

    def state_dict(self, steps: int) -> dict[str, Any]:
        """What the first `steps` left, on the CPU."""
        return {"values": self.values[:steps].cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.values[: len(state["values"])] = state["values"].to(self.values.device)
