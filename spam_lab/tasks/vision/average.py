"""The exponential moving average of a model's weights, which the recipe judges beside the model.

After update s the average is d a + (1 - d) w, from the initial weights on, in float32. It promises
to come back bit for bit from its state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of one model's parameters."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def begin(self, model: nn.Module) -> None:
        """Take the weights of `model` as the average, unless there is one already."""
        if not self._average:
            self._average = {
                name: parameter.detach().float().clone()
                for name, parameter in model.named_parameters()
            }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after an update."""
        for name, parameter in model.named_parameters():
            self._average[name].lerp_(parameter.detach().float(), 1 - self._decay)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The average by name, in the dtypes of `model`: for `torch.func.functional_call`."""
        return {
            name: self._average[name].to(parameter.dtype)
            for name, parameter in model.named_parameters()
        }

    def state_dict(self) -> dict[str, Any]:
        """The average, by name."""
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Any], model: nn.Module) -> None:
        """Go on from `state`, on the devices of `model`."""
        self._average = {
            name: state[name].to(parameter.device, copy=True)
            for name, parameter in model.named_parameters()
            if name in state
        }
