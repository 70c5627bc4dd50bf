"""GaLore: Adam on gradients projected to the leading singular vectors of a recent one.

This module owns the update of a projected matrix and its projector. It promises no state of the
matrix's full size, and that a gradient that is not finite makes a projector that is not finite: not
an error, and not a subspace.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.adam_direction import adam_direction
from spam_lab.optim.base import Group, State
from spam_lab.optim.baselines.projected import ProjectedAdam, at_least_float32, is_tall, project


class GaLore(ProjectedAdam):
    """GaLore (Zhao et al. 2024, arXiv 2403.03507, Algorithm 2), with AdamW as in its repository.

    For an m x n gradient G with m >= n; for m < n the same with all matrices transposed:

        P := the first `rank` right singular vectors of G     before steps 0, T, 2T, ...
        R  = G P                                              (m x rank)
        M := beta1 M + (1 - beta1) R,   V := beta2 V + (1 - beta2) R^2
        N  = alpha M / (sqrt(V) + eps) P^T
        W := W - lr weight_decay W
        W := W - lr sqrt(1 - beta2^t) / (1 - beta1^t) N

    t and T count the matrix's own steps. M and V stay as they are when P changes, though their
    meaning does not: even the sign of a singular vector is whatever the decomposition returns. P is
    found in float32 (float64 gradients: in float64) and kept in the gradients' dtype, as M and V
    are. Everything else (`project=False`, vectors) is Adam at the full learning rate.

    State of a matrix: rank min(m, n) + 2 rank max(m, n) elements.

    Args:
        groups: parameters, or groups with options of their own.
        lr: learning rate.
        betas: decay rates of M and V.
        eps: added to the raw root.
        weight_decay: decoupled.
        rank: r.
        update_interval: T, steps between new projectors.
        alpha: what the projected update is multiplied with.
        project: whether matrices are projected.

    Raises:
        ValueError: for a rank above the smaller side of a matrix.
        RuntimeError: for sparse gradients and complex parameters.
    """

    def __init__(
        self,
        groups: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        rank: int = 128,
        update_interval: int = 200,
        alpha: float = 0.25,
        project: bool = True,
    ) -> None:
        defaults: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "rank": rank}
        defaults |= {"weight_decay": weight_decay, "update_interval": update_interval}
        super().__init__(groups, {**defaults, "alpha": alpha, "project": project})

    def direction(self, param: Tensor, grad: Tensor, state: State, group: Group) -> Tensor:
        """N of one matrix."""
        if state.get("step", 0) % group["update_interval"] == 0:
            state["projector"] = leading_vectors(grad, group["rank"])
        projector: Tensor = state["projector"]
        low = adam_direction(
            state, project(grad, projector), group["betas"], group["eps"], corrected=False
        )
        back = low @ projector.T if is_tall(grad) else projector @ low
        return back.mul_(group["alpha"])


def leading_vectors(grad: Tensor, rank: int) -> Tensor:
    """The first `rank` singular vectors of the smaller side, as columns.

    They are NaN if the gradient is not finite: torch would raise an error that names nothing.
    """
    matrix = grad.to(at_least_float32(grad.dtype))
    finite = matrix.isfinite().all()
    left, _, right = torch.linalg.svd(torch.where(finite, matrix, 0.0), full_matrices=False)
    vectors = right[:rank].T if is_tall(grad) else left[:, :rank]
    return torch.where(finite, vectors, math.nan).to(grad.dtype).contiguous()
