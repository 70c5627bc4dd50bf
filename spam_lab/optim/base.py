"""What every optimizer of the lab has in common, beyond `torch.optim.Optimizer`.

This module owns the handling of what a user can hand in: a closure, parameters without a gradient,
empty tensors, groups added in mid-training, sparse gradients and complex parameters, and a saved
state. It promises that a state comes back bit for bit: torch itself casts every loaded tensor to
its parameter's dtype, which would round float32 moments of bfloat16 weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

State = dict[str, Any]
Group = dict[str, Any]


class KeepsState(Optimizer):
    """An optimizer whose `load_state_dict` keeps every tensor's own dtype.

    As a mixin it goes before a library's optimizer: `class Adafactor(KeepsState, TheirAdafactor)`.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`, hyperparameters included, as torch's optimizers do."""
        super().load_state_dict(state_dict)
        keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for key, param in zip(keys, self.parameters(), strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if isinstance(value, Tensor):
                    # A scalar that torch keeps on the CPU (a step count) stays there.
                    device = self.state[param][name].device
                    self.state[param][name] = value.detach().to(device, copy=True)

    def parameters(self) -> Iterator[Tensor]:
        """Every parameter, in the order of `state_dict`."""
        return chain.from_iterable(group["params"] for group in self.param_groups)


class LabOptimizer(KeepsState):
    """The common part of the optimizers that this project writes itself.

    A subclass gives `update_all`. `state_dict` holds what is in `state` and in the groups, which
    therefore must be everything that decides the next step, in tensors and plain values.

    Raises:
        RuntimeError: for sparse gradients and complex parameters.
    """

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, now or in mid-training."""
        super().add_param_group(param_group)
        for param in param_group["params"]:
            if param.is_complex():
                raise RuntimeError(f"{type(self).__name__} does not support complex parameters")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient.

        Args:
            closure: reevaluates the model and returns the loss; called with gradients enabled.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if any(param.grad is not None and param.grad.is_sparse for param in self.parameters()):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
        self.update_all()
        return loss

    @abstractmethod
    def update_all(self) -> None:
        """Update the weights in place, without gradients enabled."""


class TensorwiseOptimizer(LabOptimizer):
    """An optimizer that updates one tensor after another. A subclass gives `update`."""

    def update_all(self) -> None:
        """Prepare, then update every tensor that has a gradient and is not empty."""
        self.prepare()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and param.numel():
                    self.update(param, param.grad, self.state[param], group)

    def prepare(self) -> None:  # most have nothing to prepare
        """What a step does once, before any tensor."""

    @abstractmethod
    def update(self, param: Tensor, grad: Tensor, state: State, group: Group) -> None:
        """Update one tensor in place, and its state; `grad` must stay as it is.

        Args:
            param: the weights.
            grad: their gradient, of the same shape.
            state: the tensor's state, empty at its first step.
            group: its parameter group.
        """
