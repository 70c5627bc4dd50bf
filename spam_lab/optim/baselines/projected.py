"""Adam whose moments of some matrices are in a low-rank space: what GaLore and APOLLO share.

This module owns which parameters are projected, on which side, the check of the rank, plain Adam
for the rest, and the step itself. It promises moments of shape (rows, rank) or (rank, columns) for
a projected matrix and nothing of its full size, in the dtype of the gradients.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.adam_direction import adam_direction
from spam_lab.optim.base import Group, State, TensorwiseOptimizer


class ProjectedAdam(TensorwiseOptimizer):
    """Adam as in the authors' AdamW, with some matrices projected. A subclass gives `direction`.

        W := W - lr weight_decay W
        W := W - lr sqrt(1 - beta2^t) / (1 - beta1^t) N,   N = m / (sqrt(v) + eps)

    where t counts the tensor's own steps and N is made by `direction` for the projected matrices
    (the two-dimensional tensors of groups with `project=True`). eps is added to the raw root, as
    GaLore's and APOLLO's code does. Weight decay comes before the step, as in torch's AdamW and
    everywhere in this lab; their code has it after.

    Args:
        groups: parameters, or groups with options of their own.
        defaults: must hold lr, betas, eps, weight_decay, project and rank.

    Raises:
        ValueError: for a rank above the smaller side of a projected matrix, which would take more
            memory than Adam and project nothing.
        RuntimeError: for sparse gradients and complex parameters.
    """

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, now or in mid-training."""
        rank = param_group.get("rank", self.defaults["rank"])
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for param in group["params"]:
            if projects(param, group) and param.numel() and rank > min(param.shape):
                raise ValueError(
                    f"rank={rank} is not allowed for a matrix of shape {tuple(param.shape)}: "
                    f"at most its smaller side, {min(param.shape)}"
                )

    def update(self, param: Tensor, grad: Tensor, state: State, group: Group) -> None:
        """One step of one tensor."""
        if projects(param, group):
            direction = self.direction(param, grad, state, group)
        else:
            direction = adam_direction(state, grad, group["betas"], group["eps"], corrected=False)
        beta1, beta2 = group["betas"]
        correction = math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.add_(direction, alpha=-group["lr"] * correction)

    @abstractmethod
    def direction(self, param: Tensor, grad: Tensor, state: State, group: Group) -> Tensor:
        """N of one projected matrix, as a new tensor; counts `state["step"]`."""


def projects(param: Tensor, group: dict[str, Any]) -> bool:
    """Whether the moments of `param` are in a low-rank space."""
    return bool(group["project"]) and param.dim() == 2


def is_tall(grad: Tensor) -> bool:
    """Whether the columns are the smaller side, which is projected; so in a square matrix."""
    return grad.shape[0] >= grad.shape[1]


def project(grad: Tensor, projector: Tensor) -> Tensor:
    """G P of a tall G, P^T G of a wide one; P has shape (smaller side, rank)."""
    return grad @ projector if is_tall(grad) else projector.T @ grad


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Where decompositions and norms are computed."""
    return torch.promote_types(dtype, torch.float32)
