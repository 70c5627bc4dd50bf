"""APOLLO: gradients rescaled by what Adam does to a random projection of them.

This module owns the update of a projected matrix, its projections and the norm-growth limiter. It
promises that no projection is kept: it is drawn again from its seed at every step. One device draws
the same one always; a CPU and a GPU draw different ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.adam_direction import adam_direction
from spam_lab.optim.base import Group, State
from spam_lab.optim.baselines.projected import ProjectedAdam, at_least_float32, is_tall, project
from spam_lab.optim.selection import stream_seed

SCALE_BY = ("channel", "tensor")

_NORM_EPS = 1e-8  # as in the authors' code


class APOLLO(ProjectedAdam):
    """APOLLO and APOLLO-Mini (Zhu et al. 2024, arXiv 2412.05270, Algorithm 1).

    For an m x n gradient G with m >= n; for m < n the same with all matrices transposed:

        P := n x rank entries of N(0, 1 / rank)               before steps 0, T, 2T, ...
        R  = G P                                              (m x rank)
        M := beta1 M + (1 - beta1) R,   V := beta2 V + (1 - beta2) R^2
        s_i = |(M / (sqrt(V) + eps))_i| / (|R_i| + 1e-8)      of row i, a channel; or of the whole R
        N_i = sqrt(scale) s_i G_i
        N  := N min(1, norm_growth |N of the step before| / |N|)
        W := W - lr weight_decay W
        W := W - lr sqrt(1 - beta2^t) / (1 - beta1^t) N

    t and T count the matrix's own steps; M and V stay as they are when P changes. The limiter (from
    Fira, arXiv 2410.01623) sees N before the learning rate and the bias correction, as in the
    authors' code. Here it does not count steps of zero norm: theirs would hold a matrix whose first
    gradient is zero at almost zero for thousands of steps. Norms are float32 at least, M and V in
    the gradients' dtype. Everything else (`project=False`, vectors) is Adam.

    State of a matrix: 2 rank max(m, n) elements, and one norm.

    Args:
        groups: parameters, or groups with options of their own.
        lr: learning rate.
        betas: decay rates of M and V.
        eps: added to the raw root.
        weight_decay: decoupled.
        rank: r; 1 for APOLLO-Mini.
        update_interval: T, steps between new projections.
        scale: squared multiplier of the update; 128 for APOLLO-Mini.
        scale_by: "channel", or "tensor" for APOLLO-Mini.
        norm_growth: most that |N| may grow by in a step; None lets it.
        project: whether matrices are projected.
        seed: of the projections.

    Raises:
        ValueError: for a rank above the smaller side of a matrix, or an unknown scale_by.
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
        scale: float = 1.0,
        scale_by: str = "channel",
        norm_growth: float | None = 1.01,
        project: bool = True,
        seed: int = 0,
    ) -> None:
        if scale_by not in SCALE_BY:
            raise ValueError(f"scale_by={scale_by!r} is not allowed: one of {', '.join(SCALE_BY)}")
        defaults: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "rank": rank}
        defaults |= {"weight_decay": weight_decay, "update_interval": update_interval}
        defaults |= {"scale": scale, "scale_by": scale_by, "norm_growth": norm_growth}
        super().__init__(groups, {**defaults, "project": project, "seed": seed})

    def prepare(self) -> None:
        """Number the parameters: the number fixes a matrix's stream of projections."""
        self._numbers = {param: number for number, param in enumerate(self.parameters())}

    def direction(self, param: Tensor, grad: Tensor, state: State, group: Group) -> Tensor:
        """N of one matrix."""
        draw = state.get("step", 0) // group["update_interval"]
        drawn = stream_seed(group["seed"], self._numbers[param], draw)
        low = project(grad, random_projection(min(grad.shape), group["rank"], drawn, grad))
        adapted = adam_direction(state, low, group["betas"], group["eps"], corrected=False)
        by_channel = group["scale_by"] == "channel"
        dim = (1 if is_tall(grad) else 0) if by_channel else None
        ratio = norm(adapted, dim) / (norm(low, dim) + _NORM_EPS)
        update: Tensor = grad * (ratio * math.sqrt(group["scale"])).to(grad.dtype)
        if group["norm_growth"] is not None:
            update.mul_(growth_limit(state, norm(update), group["norm_growth"]))
        return update


def random_projection(side: int, rank: int, seed: int, like: Tensor) -> Tensor:
    """A Gaussian matrix of shape (side, rank) and variance 1 / rank.

    It is drawn in float32 on the device of `like`, then rounded to its dtype.
    """
    # The meta device, where memory is counted, has no generator and draws nothing.
    own = "cpu" if like.device.type == "meta" else like.device
    generator = torch.Generator(own).manual_seed(seed)
    drawn = torch.randn(side, rank, generator=generator, device=like.device, dtype=torch.float32)
    return drawn.div_(math.sqrt(rank)).to(like.dtype)


def norm(matrix: Tensor, dim: int | None = None) -> Tensor:
    """L2 norms along `dim`, or one of all entries; as many dimensions as `matrix` has."""
    dtype = at_least_float32(matrix.dtype)
    found: Tensor = torch.linalg.vector_norm(matrix, dim=dim, keepdim=True, dtype=dtype)
    return found


def growth_limit(state: State, now: Tensor, growth: float) -> Tensor:
    """What an update of norm `now` is multiplied with; keeps the norm that it then has."""
    if "update_norm" not in state:
        state["update_norm"] = torch.zeros_like(now)
    before = state["update_norm"]
    # Nothing is limited by a norm of zero; and one of zero, whose quotient is infinite, not at all.
    factor = torch.where(before > 0, (growth * before / now).clamp(max=1), 1.0)
    state["update_norm"] = torch.where(now == 0, before, now * factor)
    return factor
