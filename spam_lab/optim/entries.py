"""The entries of one parameter that train in a step, and how to walk through them.

This module owns the way between a parameter in its own shape and the flat stretches that the
arithmetic works on: views where the memory allows, copies of a stretch elsewhere. It promises that
no copy is longer than a stretch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spam_lab.optim.mask import Mask

STRETCH = {"cpu": 3 << 13, "cuda": 1 << 24}
"""Entries handled together: temporaries stay in a core's cache and below the size for which the C
library asks the system for fresh pages, or small beside a GPU's memory."""

MOMENTS = ("exp_avg", "exp_avg_sq", "grad_mean", "grad_var")


@dataclass
class Entries:
    """The entries of one parameter that train: one-dimensional tensors.

    Attributes:
        param, grad: w and g, all of them, flat.
        exp_avg, exp_avg_sq: the raw moments m and v of the selected entries, in their order.
        mask: which entries are selected; None for all.
        grad_mean, grad_var: raw G and delta^2 of the Gaussian rule; None for other rules.
    """

    param: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    mask: Mask | None
    grad_mean: Tensor | None = None
    grad_var: Tensor | None = None

    @property
    def count(self) -> int:
        """How many entries train."""
        return self.exp_avg.numel()

    def stretches(self) -> Iterator[Stretch]:
        """All entries, piece by piece."""
        limit = STRETCH["cpu" if self.param.device.type == "cpu" else "cuda"]
        if self.mask is None:
            for start in range(0, self.count, limit):
                stop = min(start + limit, self.count)
                yield self._stretch(start, stop, start, stop, None)
            return
        for piece in self.mask.pieces(limit, self.param.device):
            yield self._stretch(piece.start, piece.stop, piece.first, piece.last, piece.positions)

    def _stretch(
        self, start: int, stop: int, first: int, last: int, positions: Tensor | None
    ) -> Stretch:
        moments = {
            name: value[first:last]
            for name in MOMENTS
            if (value := getattr(self, name)) is not None
        }
        param, grad = self.param[start:stop], self.grad[start:stop]
        if positions is None:
            return Stretch(param, grad, param, grad, None, first, moments)
        weights, chosen = param.index_select(0, positions), grad.index_select(0, positions)
        return Stretch(param, grad, weights, chosen, positions, first, moments)


@dataclass
class Stretch:
    """A stretch of `Entries`.

    Attributes:
        param, grad: all weights and gradients of the stretch.
        weights, chosen: those of the selected entries; the same tensors where all are.
        positions: of the selected entries in the stretch; None where all are.
        first: position of the first one among the moments.
        moments: the moments of the selected entries, by name, as views.
    """

    param: Tensor
    grad: Tensor
    weights: Tensor
    chosen: Tensor
    positions: Tensor | None
    first: int
    moments: dict[str, Tensor]

    def write(self, weights: Tensor) -> None:
        """Put the selected entries' new weights where they belong."""
        if self.positions is None:
            if weights is not self.param:
                self.param.copy_(weights)
        else:
            self.param.index_copy_(0, self.positions, weights.to(self.param.dtype))


def flat(param: Tensor) -> Tensor:
    """`param` in one dimension: a view if it is contiguous, else a copy to be written back."""
    return param.detach().reshape(-1)


def write_back(param: Tensor, values: Tensor) -> None:
    """Copy `values` into the parameter, unless they are the parameter's own memory."""
    if values.data_ptr() != param.data_ptr():
        with torch.no_grad():
            param.copy_(values.view_as(param))
