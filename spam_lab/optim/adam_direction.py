"""Adam's moments and direction for one tensor, the part that many baselines share.

This module owns m, v and their bias correction as torch's Adam defines them. It promises to leave
the gradient as it is and to keep the moments in the dtype they were made in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spam_lab.optim.base import State


def adam_direction(
    state: State, grad: Tensor, betas: tuple[float, float], eps: float, *, corrected: bool = True
) -> Tensor:
    """m^ / (sqrt(v^) + eps), after taking `grad` into the moments.

        m := beta1 m + (1 - beta1) g,   m^ = m / (1 - beta1^t)
        v := beta2 v + (1 - beta2) g^2, v^ = v / (1 - beta2^t)

    (Kingma and Ba 2015, Algorithm 1.) Every operation rounds to the dtype of the moments.

    Args:
        state: holds `exp_avg`, `exp_avg_sq` (in the shape and dtype of the first gradient that
            came) and `step`, an integer; they are made where they are missing.
        grad: g, of any shape.
        betas: decay rates of m and v.
        eps: added to the corrected root.
        corrected: whether m^ and v^ are corrected; if not, they are m and v.

    Returns:
        A new tensor in the shape of `grad`.
    """
    beta1, beta2 = betas
    if "exp_avg" not in state:
        state["exp_avg"] = torch.zeros_like(grad, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(grad, memory_format=torch.preserve_format)
        state["step"] = 0
    state["step"] += 1
    m: Tensor = state["exp_avg"]
    v: Tensor = state["exp_avg_sq"]
    m.mul_(beta1).add_(grad, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    if not corrected:
        return m / v.sqrt().add_(eps)
    first: float = 1 - beta1 ** state["step"]
    second: float = 1 - beta2 ** state["step"]
    root = v.sqrt().div_(math.sqrt(second)).add_(eps)
    return (m / first).div_(root)
