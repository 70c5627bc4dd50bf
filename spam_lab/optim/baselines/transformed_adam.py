"""Adam behind a transform of each gradient, which is what clipping and normalising methods are.

This module owns the common step: decoupled decay, the subclass's transform, then Adam by torch's
fused kernel, the very one that the `adam` baseline runs, so that two methods differ by their
transform alone. It promises that norms and statistics are scalar tensors on the parameter's device,
in float32 (float64 for float64 gradients), and that no step makes the host wait for the device.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.base import Group, State, TensorwiseOptimizer


class TransformedAdam(TensorwiseOptimizer):
    """Adam (AdamW with weight decay) on transformed gradients. A subclass gives `transform`.

        w := w - lr wd w
        h  = transform(g)
        m := beta1 m + (1 - beta1) h
        v := beta2 v + (1 - beta2) h^2
        w := w - lr m / (1 - beta1^b) / (sqrt(v / (1 - beta2^b)) + eps)

    b counts the tensor's updates. The moments have the parameter's dtype; arithmetic inside the
    kernel is float32 or wider, and rounds once.

    Args:
        params: parameters or groups, as for every torch optimizer.
        lr: learning rate.
        betas: decay rates of m and v.
        eps: added to the corrected root.
        weight_decay: wd, decoupled.
        own: the subclass's options, one default for every group.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        **own: Any,
    ) -> None:
        common = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**common, **own})

    def update(self, param: Tensor, grad: Tensor, state: State, group: Group) -> None:
        """Transform, then Adam."""
        self.adam_step(param, self.transform(grad, state, group), state, group)

    @abstractmethod
    def transform(self, grad: Tensor, state: State, group: Group) -> Tensor:
        """What Adam gets instead of `grad`, which stays as it is; may update `state`."""

    def adam_step(
        self, param: Tensor, grad: Tensor, state: State, group: Group, momentum_scale: float = 1.0
    ) -> None:
        """Decay the weights, take `grad` into the moments, and step.

        Args:
            param: the weights, updated in place.
            grad: what Adam takes for the gradient; stays as it is.
            state: holds `exp_avg`, `exp_avg_sq` and `step` (b); they are made where missing.
            group: has lr, betas, eps and weight_decay.
            momentum_scale: multiplies beta1, in the update of m and in its correction.
        """
        if "exp_avg" not in state:
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.zeros_like(param, memory_format=torch.contiguous_format)
            state["step"] = 0
        state["step"] += 1
        # The kernel reads memory in order, whatever the strides say.
        weights = param.contiguous()
        torch._fused_adamw_(
            [weights],
            [grad.contiguous()],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [torch.full((), state["step"], dtype=torch.float32, device=param.device)],
            lr=group["lr"],
            beta1=group["betas"][0] * momentum_scale,
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
        if weights is not param:
            param.copy_(weights)


def norm(tensor: Tensor) -> Tensor:
    """The L2 norm over all entries, as a scalar tensor in float32 or wider."""
    length: Tensor = torch.linalg.vector_norm(tensor, dtype=_wide(tensor))
    return length


def global_norm(grads: list[Tensor]) -> Tensor:
    """The joint L2 norm of several tensors, as a scalar tensor on the first one's device."""
    return norm(torch.stack([norm(grad).to(grads[0].device) for grad in grads]))


def statistic(like: Tensor, value: float = 0.0) -> Tensor:
    """A new scalar statistic on the device of `like`, in float32 or wider."""
    return torch.full((), value, dtype=_wide(like), device=like.device)


def shrink(length: Tensor, limit: Tensor | float, eps: float = 0.0) -> Tensor:
    """The factor that brings `length` down to `limit`: limit / (length + eps) above it, else 1.

    It is 1 for a length of NaN and 0 for an infinite one, so that a gradient with such entries
    keeps them, or has NaN in their place.
    """
    return torch.where(length > limit, limit / (length + eps), 1.0)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
