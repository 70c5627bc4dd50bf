"""What an optimizer knows of single entries: the m and v that it keeps for each, by flat index.

It promises a number only where there is one for that very entry: masks of sparse SPAM are looked
through, and moments of projections, of rotated gradients, and of rows, columns or blocks are no
entry's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from spam_lab.optim import mask, moments
from spam_lab.optim.base import State
from spam_lab.optim.memory import kind_of

KEYS = ("exp_avg", "exp_avg_sq")
"""The names of m and v in the state of torch's optimizers and of ours."""


def moments_at(optimizer: Optimizer, parameter: Tensor, indices: Tensor) -> Tensor:
    """The raw m and v of some entries of a parameter, as the last step left them.

    Args:
        optimizer: any.
        parameter: one of its parameters.
        indices: flat positions in it, int64, (n,), on its device.

    Returns:
        float32, (2, n): m and v; NaN where the optimizer has none.
    """
    state = optimizer.state.get(parameter, {})
    found = torch.full((2, indices.numel()), torch.nan, device=indices.device)
    chosen = mask.from_state(state)
    if chosen is None:
        slots, known = indices, torch.ones_like(indices, dtype=torch.bool)
    else:
        positions = mask.positions(chosen, indices.device)
        slots = torch.searchsorted(positions, indices).clamp_(max=positions.numel() - 1)
        known = positions[slots] == indices
    for row, key in zip(found, KEYS, strict=True):
        if _is_by_entry(state, key, parameter):
            values = state[key].reshape(-1)[slots].to(row.dtype)
            torch.where(known, values, row, out=row)
    return found


def spikes_by_moment(
    optimizer: Optimizer, parameter: Tensor, gradient: Tensor, theta: float
) -> tuple[Tensor, Tensor] | None:
    """SPAM's criterion: how many entries have g^2 > theta v, of how many that have a v above 0.

    In float32, as SPAM's fused arithmetic, and with v as the last step left it.

    Args:
        optimizer: any; nothing of it is changed.
        parameter: one of its parameters.
        gradient: of the same shape.
        theta: the threshold.

    Returns:
        Two integers on the parameter's device; None where there is no v for each entry.
    """
    state = optimizer.state.get(parameter, {})
    if not all(_is_by_entry(state, key, parameter) for key in KEYS):
        return None
    spiked = torch.zeros((), dtype=torch.int64, device=parameter.device)
    examined = torch.zeros_like(spiked)
    for stretch in moments.entries(state, parameter, gradient).stretches():
        square = stretch.chosen.float().square()
        limit = stretch.moments["exp_avg_sq"].float() * theta
        exists = limit > 0
        examined += exists.sum()
        spiked += (exists & (square > limit)).sum()
    return spiked, examined


def _is_by_entry(state: State, key: str, parameter: Tensor) -> bool:
    """Whether `state[key]` has one number for each entry, or for each that the mask selects."""
    if key not in state or any(kind_of(name) == "projectors" for name in state):
        return False
    chosen = mask.from_state(state)
    shape: torch.Size = state[key].shape
    return shape == (parameter.shape if chosen is None else (chosen.count,))
