"""AdaGC: each tensor's gradient is clipped to little more than its own usual norm.

This module owns the two phases of AdaGC (arXiv 2502.11034): a common limit first, each tensor's own
afterwards. It promises that gradients that are not finite stay so.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.base import Group, State
from spam_lab.optim.baselines.transformed_adam import (
    TransformedAdam,
    global_norm,
    norm,
    shrink,
    statistic,
)


class AdaGC(TransformedAdam):
    """AdaGC before Adam (arXiv 2502.11034; checked against pytorch_optimizer's).

    At the t-th gradient of a tensor, from t = 1, with G the L2 norm of all gradients together:

        t < warmup_steps:  h = g min(1, lambda_abs / G),           gamma := min(gamma, |h|_2)
        afterwards:        h = g min(1, lambda_rel gamma / |g|_2), gamma := beta gamma
                                                                          + (1 - beta) |h|_2

    Choices where the definition leaves one. t counts the tensor's own gradients, so that a tensor
    that comes late has its warm-up too, and its first gradient is always in the warm-up, since
    gamma needs a start. A norm of zero does not lower gamma: taken literally it would make gamma 0
    and freeze the tensor for ever. A tensor whose gradients were all zero so far has no gamma; its
    first other one is then not clipped, and starts gamma. Decay and Adam are `TransformedAdam`'s.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay rates of Adam's moments.
        eps: added to Adam's corrected root.
        weight_decay: decoupled.
        beta: decay of gamma (0.98).
        lambda_abs: limit of the joint norm in the warm-up (1.0).
        lambda_rel: limit of a tensor's norm, in units of gamma (1.05).
        warmup_steps: gradients of the first phase, plus one (100).

    Raises:
        RuntimeError: for sparse gradients and complex parameters.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        beta: float = 0.98,
        lambda_abs: float = 1.0,
        lambda_rel: float = 1.05,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            beta=beta,
            lambda_abs=lambda_abs,
            lambda_rel=lambda_rel,
            warmup_steps=warmup_steps,
        )
        self._joint: Tensor | None = None

    def prepare(self) -> None:
        """The joint norm, where a tensor is still in its warm-up."""
        members = [
            (param.grad, _in_warmup(self.state[param], group))
            for group in self.param_groups
            for param in group["params"]
            if param.grad is not None and param.numel()
        ]
        warm = any(early for _, early in members)
        self._joint = global_norm([grad for grad, _ in members]) if warm else None

    def transform(self, grad: Tensor, state: State, group: Group) -> Tensor:
        """The clipped gradient."""
        if "gamma" not in state:
            state["gamma"] = statistic(grad, math.inf)
        gamma = state["gamma"]
        if _in_warmup(state, group):
            assert self._joint is not None
            joint = self._joint.to(grad.device)
            clipped = grad * shrink(joint, group["lambda_abs"])
            length = norm(clipped)
            moved = torch.minimum(gamma, _unless_zero(length))
        else:
            clipped = grad * shrink(norm(grad), group["lambda_rel"] * gamma)
            length = norm(clipped)
            average = group["beta"] * gamma + (1 - group["beta"]) * length
            moved = torch.where(gamma.isinf(), _unless_zero(length), average)
        state["gamma"] = moved
        return clipped


def _in_warmup(state: State, group: Group) -> bool:
    """Whether the tensor's next gradient belongs to the first phase. Adam counts the gradients."""
    taken: int = state.get("step", 0)
    return taken == 0 or taken + 1 < group["warmup_steps"]


def _unless_zero(length: Tensor) -> Tensor:
    return torch.where(length == 0, math.inf, length)
