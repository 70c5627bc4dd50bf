"""Adafactor with a fixed learning rate, the form in which the reference script calls it.

This module owns the factored second moment and the clip of a whole update. It promises the numbers
of transformers' class (without relative steps and without a scale from the weights), whose package
this room does not import, and float32 states for bfloat16 weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.base import Group, State, TensorwiseOptimizer


class Adafactor(TensorwiseOptimizer):
    """Adafactor (Shazeer and Stern 2018, Algorithms 4 and 5).

    For a matrix, at the step t = 1, 2, ...:

        beta2_t = 1 - t^decay_rate
        a  = g^2 + eps1
        r := beta2_t r + (1 - beta2_t) mean of a over columns
        c := beta2_t c + (1 - beta2_t) mean of a over rows
        u  = g / sqrt((r / mean(r)) c^T)
        u := lr u / max(1, RMS(u) / clip_threshold)
        m := beta1 m + (1 - beta1) u, and u := m    (unless beta1 is None)
        w := w - lr weight_decay w,  then  w := w - u

    A vector keeps the whole second moment. Gradients of bfloat16 weights are taken to float32, the
    states are float32, and the weights are rounded once.

    Args:
        params: parameters or groups.
        lr: learning rate.
        beta1: decay of a moment of the updates; None has none.
        decay_rate: see beta2_t.
        eps1: see a.
        clip_threshold: largest root mean square of an update before lr.
        weight_decay: decoupled.

    Raises:
        RuntimeError: for sparse gradients and complex parameters.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        beta1: float | None = None,
        decay_rate: float = -0.8,
        eps1: float = 1e-30,
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        own = {"decay_rate": decay_rate, "eps1": eps1, "clip_threshold": clip_threshold}
        super().__init__(params, {"lr": lr, "beta1": beta1, "weight_decay": weight_decay, **own})

    def update(self, param: Tensor, grad: Tensor, state: State, group: Group) -> None:
        """One tensor's step."""
        wide = torch.promote_types(param.dtype, torch.float32)
        grad, weights = grad.to(wide), param.to(wide)
        state["step"] = state.get("step", 0) + 1
        beta2 = 1.0 - state["step"] ** group["decay_rate"]
        square = grad**2 + group["eps1"]
        if grad.dim() >= 2:
            row = _averaged(state, "exp_avg_sq_row", square.mean(dim=-1), beta2)
            column = _averaged(state, "exp_avg_sq_col", square.mean(dim=-2), beta2)
            shares = (row / row.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
            update = (shares * column.unsqueeze(-2).rsqrt()).mul_(grad)
        else:
            update = _averaged(state, "exp_avg_sq", square, beta2).rsqrt().mul_(grad)
        size = update.norm(2) / update.numel() ** 0.5
        update.div_((size / group["clip_threshold"]).clamp_(min=1.0)).mul_(group["lr"])
        if group["beta1"] is not None:
            update = _averaged(state, "exp_avg", update, group["beta1"])
        if group["weight_decay"]:
            weights = weights.add(weights, alpha=-group["weight_decay"] * group["lr"])
        param.copy_(weights - update)


def _averaged(state: State, name: str, values: Tensor, decay: float) -> Tensor:
    """The running mean of that name, once it has taken `values`; it starts at zero."""
    if name not in state:
        state[name] = torch.zeros_like(values)
    mean: Tensor = state[name]
    return mean.mul_(decay).add_(values, alpha=1.0 - decay)
