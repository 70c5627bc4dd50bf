"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

This module owns the update of one matrix and the two ways to find a basis. It promises states in
float32 for weights of half precision, as there is no decomposition in less, and that a matrix that
is not finite makes a basis that is not finite: not an error, and not a basis.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.adam_direction import adam_direction
from spam_lab.optim.base import Group, State, TensorwiseOptimizer


class SOAP(TensorwiseOptimizer):
    """SOAP (Vyas et al. 2024, arXiv 2409.11321, Algorithms 3 and 4).

    For an m x n matrix, with orthogonal P (m x m) and Q (n x n):

        M := beta1 M + (1 - beta1) G,   V := beta2 V + (1 - beta2) (P^T G Q)^2
        N  = P [(P^T M Q) / (sqrt(V) + eps)] Q^T
        W := W - lr weight_decay W
        W := W - lr sqrt(1 - beta2^t) / (1 - beta1^t) N
        L := beta2 L + (1 - beta2) G G^T,   R := beta2 R + (1 - beta2) G^T G

    and after every `precondition_every`-th of these steps one power iteration, P := QR(L P), its
    columns (and V's rows) sorted by falling p^T L p beforehand; Q likewise from R. As in the
    authors' code, the first gradient of a matrix moves no weight: it makes L and R, whose
    eigenvectors are the first P and Q. Weight decay comes before the step, as in AdamW; the
    authors' comes after.

    Everything else (`precondition=False`, vectors, tensors of more dimensions) is Adam, with eps
    on the corrected root and a step from the first gradient on.

    Args:
        groups: parameters, or groups with options of their own.
        lr: learning rate.
        betas: decay rates of M, and of V, L and R.
        eps: added to the raw root (to the corrected one outside preconditioned matrices).
        weight_decay: decoupled.
        precondition_every: steps between refreshes of P and Q.
        largest_side: a side longer than this keeps the identity as its basis, and has no L or R.
        precondition: whether matrices are preconditioned.

    Raises:
        RuntimeError: for sparse gradients and complex parameters.
    """

    def __init__(
        self,
        groups: Any,
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        precondition_every: int = 10,
        largest_side: int = 10_000,
        precondition: bool = True,
    ) -> None:
        defaults: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps}
        defaults |= {"weight_decay": weight_decay, "precondition": precondition}
        defaults |= {"precondition_every": precondition_every, "largest_side": largest_side}
        super().__init__(groups, defaults)

    def update(self, param: Tensor, grad: Tensor, state: State, group: Group) -> None:
        """One step of one tensor."""
        grad = grad.to(torch.promote_types(grad.dtype, torch.float32))
        turned = group["precondition"] and param.dim() == 2
        if turned and not state:
            start(state, grad, group["betas"][1], group["largest_side"])
            return
        direction = preconditioned if turned else adam_direction
        update = direction(state, grad, group["betas"], group["eps"])
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.add_(update, alpha=-group["lr"])
        if turned:
            accumulate(state, grad, group["betas"][1])
            if state["step"] % group["precondition_every"] == 0:
                refresh(state)


def start(state: State, grad: Tensor, beta2: float, largest_side: int) -> None:
    """Make the states of a matrix; the eigenvectors of its first L and R are its first bases."""
    state["step"] = 0
    state["exp_avg"] = torch.zeros_like(grad)
    state["exp_avg_sq"] = torch.zeros_like(grad)
    for side, length in enumerate(grad.shape):
        if length <= largest_side:
            state[f"covariance_{side}"] = grad.new_zeros(length, length)
    accumulate(state, grad, beta2)
    for side in sides(state):
        state[f"basis_{side}"] = eigenvectors(state[f"covariance_{side}"])


def sides(state: State) -> list[int]:
    """The sides that have a basis: 0 for L and P, 1 for R and Q."""
    return [side for side in (0, 1) if f"covariance_{side}" in state]


def accumulate(state: State, grad: Tensor, beta2: float) -> None:
    """Take a gradient into L and R."""
    for side in sides(state):
        outer = grad @ grad.T if side == 0 else grad.T @ grad
        state[f"covariance_{side}"].lerp_(outer, 1 - beta2)


def preconditioned(state: State, grad: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
    """The bias-corrected N, after taking `grad` into M and V."""
    beta1, beta2 = betas
    state["step"] += 1
    m, v = state["exp_avg"], state["exp_avg_sq"]
    rotated = rotate(state, grad)
    m.lerp_(grad, 1 - beta1)
    v.mul_(beta2).addcmul_(rotated, rotated, value=1 - beta2)
    correction = math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
    quotient = rotate(state, m).div_(v.sqrt().add_(eps)).mul_(correction)
    return rotate(state, quotient, back=True)


def rotate(state: State, matrix: Tensor, *, back: bool = False) -> Tensor:
    """A new tensor: P^T X Q, or P X Q^T on the way back."""
    result = matrix.clone()
    for side in sides(state):
        basis = state[f"basis_{side}"]
        turn = basis.T if back else basis
        result = turn.T @ result if side == 0 else result @ turn
    return result


def refresh(state: State) -> None:
    """One power iteration of P and Q, sorted; V's rows and columns move along."""
    for side in sides(state):
        basis = state[f"basis_{side}"]
        image = state[f"covariance_{side}"] @ basis
        order = (basis * image).sum(dim=0).argsort(descending=True, stable=True)
        state["exp_avg_sq"] = state["exp_avg_sq"].index_select(side, order)
        state[f"basis_{side}"] = torch.linalg.qr(image.index_select(1, order)).Q


def eigenvectors(matrix: Tensor) -> Tensor:
    """The eigenvectors of a symmetric matrix as columns, by falling eigenvalue.

    They are NaN if the matrix is not finite: torch would raise an error that names nothing.
    """
    finite = matrix.isfinite().all()
    found = torch.linalg.eigh(torch.where(finite, matrix, 0.0)).eigenvectors
    return torch.where(finite, found.flip(1), math.nan)
