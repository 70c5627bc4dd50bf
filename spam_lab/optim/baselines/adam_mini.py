"""Adam-mini: Adam with one second moment for each block of weights.

This module owns the update and what a block is. It promises the arithmetic of the authors' code
(version 1.1.1), in the dtype of the gradients.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.base import Group, State, TensorwiseOptimizer

BLOCKS = ("head", "row", "tensor", "entry")


class AdamMini(TensorwiseOptimizer):
    """Adam-mini (Zhang et al. 2024, arXiv 2406.16793, Algorithm 1).

    The tensor is cut into B blocks; v is one number a block, m one a weight:

        m := beta1 m + (1 - beta1) g
        v := beta2 v + (1 - beta2) mean of g^2 over the block
        w := w - lr weight_decay w
        w := w - lr (m / (1 - beta1^t)) / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    t counts the tensor's own steps.

    Args:
        groups: parameters, or groups with options of their own.
        lr: learning rate.
        betas: decay rates of m and v.
        eps: added to the corrected root.
        weight_decay: decoupled.
        block: "head" cuts a matrix into bundles of rows, columns / heads each, which are the heads
            of a query or key projection (and heads of fewer key-value heads, and the query, key and
            value parts of each head of GPT-NeoX's fused projection); "row" takes one row each,
            "tensor" the whole, and "entry" one weight, which is Adam.
        heads: attention heads of the model.

    Raises:
        ValueError: for an unknown block, or a shape that heads do not divide.
        RuntimeError: for sparse gradients and complex parameters.
    """

    def __init__(
        self,
        groups: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        block: str = "entry",
        heads: int = 1,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(groups, {**defaults, "block": block, "heads": heads})

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, now or in mid-training."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for param in group["params"]:
            block_count(param, group["block"], group["heads"])

    def update(self, param: Tensor, grad: Tensor, state: State, group: Group) -> None:
        """One step of one tensor."""
        beta1, beta2 = group["betas"]
        blocks = block_count(param, group["block"], group["heads"])
        rows = grad.reshape(blocks, -1)
        if not state:
            state["exp_avg"] = torch.zeros_like(grad, memory_format=torch.preserve_format)
            state["block_avg_sq"] = grad.new_zeros(blocks, 1)
            state["step"] = 0
        state["step"] += 1
        m, v = state["exp_avg"], state["block_avg_sq"]
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).add_((rows * rows).mean(dim=1, keepdim=True), alpha=1 - beta2)
        root = v.sqrt().div_(math.sqrt(1 - beta2 ** state["step"])).add_(group["eps"])
        # Rounded where the authors' code rounds, which bfloat16 weights show.
        scale = (1 / (1 - beta1 ** state["step"])) / root
        update = (m.reshape(blocks, -1) * scale).mul_(group["lr"])
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.sub_(update.view(param.shape))


def block_count(param: Tensor, block: str, heads: int) -> int:
    """How many blocks the tensor has: equal shares of it, in the order of its entries.

    Raises:
        ValueError: for an unknown block, or a shape that heads do not divide.
    """
    if block == "head":
        rows, columns = param.shape if param.dim() == 2 else (0, 0)
        if not columns or columns % heads or rows % (columns // heads):
            raise ValueError(
                f"heads={heads} is not allowed for a matrix of shape {tuple(param.shape)}: "
                f"a divisor of its columns, whose quotient divides its rows"
            )
        return rows // (columns // heads)
    counts = {"row": param.shape[0] if param.dim() else 1, "tensor": 1, "entry": param.numel()}
    if block not in counts:
        raise ValueError(f"block={block!r} is not allowed: one of {', '.join(BLOCKS)}")
    return counts[block]
