"""FRUGAL: Adam on a changing part of the weights, descent by the gradient's sign on the rest.

This module owns which part has moments and the update of both. It promises moments of that part
alone, that the part depends on the seed, the matrix's place and the number of the draw only, and
that no mask is stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.adam_direction import adam_direction
from spam_lab.optim.base import Group, State, TensorwiseOptimizer
from spam_lab.optim.mask import RandomMask, unit_positions
from spam_lab.optim.selection import stream_seed

SELECTIONS = ("blocks", "columns", "random")


class FRUGAL(TensorwiseOptimizer):
    """FRUGAL (Zmushko et al. 2024, arXiv 2411.07837, Algorithm 1) of Adam and signSGD.

    Before calls 0, T, 2T, ... of the optimizer, a part of the matrices of groups with `split=True`
    is drawn anew and all their moments are forgotten, also of entries that are drawn again. Then

        w := w - lr weight_decay w
        w := w - lr m^ / (sqrt(v^) + eps)          in the part: Adam, its t counted from the draw
        w := w - lr sign_lr_ratio sign(g)          elsewhere

    What is drawn, out of the authors' choices (those by singular vectors are not here):

        blocks: whole matrices, round(density * how many there are), but at least one. The authors'
            main one. What the moments take varies between draws, as matrices differ in size.
        columns: floor(density * columns) of each matrix, but at least one.
        random: floor(density * entries) of each matrix, but at least one. It is sparse SPAM's mask
            (`spam_lab.optim.mask`: one entry of each of equal stretches), so the two compare.
            Columns are drawn in the same way. The authors draw without stretches.

    Everything else (`split=False`, vectors) is Adam without resets. Moments have the gradients'
    dtype. The sign of an infinite gradient, or of one that is not a number, is not a number here:
    torch's is 1 and 0, which would hide it.

    Args:
        groups: parameters, or groups with options of their own.
        lr: learning rate.
        betas: decay rates of m and v.
        eps: added to the corrected root.
        weight_decay: decoupled.
        density: the share of matrices, columns or entries that has moments.
        selection: one of `SELECTIONS`.
        update_interval: T, calls between draws.
        sign_lr_ratio: learning rate of the rest over that of Adam; 0 freezes it.
        split: whether matrices are split.
        seed: of the draws.

    Raises:
        ValueError: for an unknown selection.
        RuntimeError: for sparse gradients and complex parameters.
    """

    def __init__(
        self,
        groups: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        density: float = 0.25,
        selection: str = "blocks",
        update_interval: int = 200,
        sign_lr_ratio: float = 1.0,
        split: bool = True,
        seed: int = 0,
    ) -> None:
        if selection not in SELECTIONS:
            allowed = ", ".join(SELECTIONS)
            raise ValueError(f"selection={selection!r} is not allowed: one of {allowed}")
        defaults: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "density": density}
        defaults |= {"weight_decay": weight_decay, "selection": selection, "split": split}
        defaults |= {"update_interval": update_interval, "sign_lr_ratio": sign_lr_ratio}
        # Every group carries the number of calls, so that state_dict does.
        super().__init__(groups, {**defaults, "seed": seed, "calls": 0})

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, now or in mid-training: they share the optimizer's clock."""
        if self.param_groups:
            param_group["calls"] = self.param_groups[0]["calls"]
        super().add_param_group(param_group)

    def prepare(self) -> None:
        """Count the call, and the matrices that blocks are drawn from."""
        for group in self.param_groups:
            group["calls"] += 1
        matrices = [p for group in self.param_groups for p in group["params"] if splits(p, group)]
        self._numbers = {param: number for number, param in enumerate(matrices)}

    def update(self, param: Tensor, grad: Tensor, state: State, group: Group) -> None:
        """One step of one tensor."""
        grad = grad.contiguous()
        if splits(param, group):
            draw = (group["calls"] - 1) // group["update_interval"]
            if state.get("draw") != draw:
                self._renew(state, param, group, draw)
            direction = split_direction(state, grad, group)
        else:
            direction = adam_direction(state, grad, group["betas"], group["eps"])
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.add_(direction, alpha=-group["lr"])

    def _renew(self, state: State, param: Tensor, group: Group, draw: int) -> None:
        """Forget the moments of a matrix and say which part of it has new ones."""
        number, total = self._numbers[param], len(self._numbers)
        state.clear()
        state["draw"] = draw
        if group["selection"] == "blocks":
            generator = torch.Generator().manual_seed(stream_seed(group["seed"], 0, draw))
            order = torch.randperm(total, generator=generator, device="cpu").tolist()
            state["active"] = number in order[: max(1, round(group["density"] * total))]
        else:
            state["mask_seed"] = stream_seed(group["seed"], number, draw) >> 1


def splits(param: Tensor, group: Group) -> bool:
    """Whether only a part of `param` has moments."""
    return bool(group["split"]) and param.dim() == 2


def split_direction(state: State, grad: Tensor, group: Group) -> Tensor:
    """What is subtracted from a matrix, over lr, as a new tensor."""
    betas, eps = group["betas"], group["eps"]
    if state.get("active"):
        return adam_direction(state, grad, betas, eps)
    # The difference is zero, or NaN where the gradient is not finite.
    direction = grad.sign().mul_(group["sign_lr_ratio"]).add_(grad - grad)
    if group["selection"] == "blocks":
        return direction
    by_columns = group["selection"] == "columns"
    dim = 1 if by_columns else 0
    whole, target = (m if by_columns else m.view(-1) for m in (grad, direction))
    positions = drawn_positions(whole.shape[dim], group["density"], state["mask_seed"], grad)
    part = adam_direction(state, whole.index_select(dim, positions), betas, eps)
    target.index_copy_(dim, positions, part)
    return direction


def drawn_positions(units: int, density: float, seed: int, like: Tensor) -> Tensor:
    """Which of `units` columns or entries have moments: ascending, int64."""
    mask = RandomMask(units, max(1, int(density * units)), 1, seed)
    strata = torch.arange(mask.selected, device=like.device)
    return unit_positions(strata, torch.tensor(mask.numbers(), device=like.device))
