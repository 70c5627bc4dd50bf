"""The state of one parameter: its moments, its mask, its counters.

This module owns how a parameter's state starts and restarts at a reset. It promises that a reset
that a parameter missed, having no gradient then, happens before its next step, and that no state is
kept for entries outside the mask.

State keys: `exp_avg` and `exp_avg_sq` are m and v, in the shape of the parameter, or flat and as
long as the mask where there is one. The mask itself is a few integers or a tensor, under names that
start with `mask_` (see `mask`). `updates` counts steps since the start, `age` since the last reset,
and `resets` the resets that the parameter has seen. `grad_mean` and `grad_var` belong to the
Gaussian spike rule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spam_lab.optim import mask, selection
from spam_lab.optim.base import Group, State
from spam_lab.optim.entries import Entries, flat
from spam_lab.optim.mask import Mask
from spam_lab.optim.options import DTYPES


def renew(
    state: State,
    param: Tensor,
    grad: Tensor,
    group: Group,
    rule: str | selection.Selection,
    index: int,
    resets: int,
) -> None:
    """Start the state, or reset it: a new mask, zero moments.

    The Gaussian rule's statistics start again even where `reselected` keeps the moments: they
    have one age a tensor, and their correction needs it.

    Args:
        state: the parameter's state, empty at its first step.
        param, grad: the parameter and its gradient.
        group: its parameter group.
        rule: how entries are selected where the group's density is below 1.
        index: the parameter's position in the optimizer.
        resets: resets so far, this one included.
    """
    before, after = mask.from_state(state), None
    if group["density"] < 1:
        density, seed = group["density"], group["seed"]
        after = selection.choose(rule, param, grad, density, seed, index, resets)
    shape = param.shape if after is None else torch.Size([after.count])
    zeroed = ["exp_avg", "exp_avg_sq"]
    if state and group["reselected"] == "keep":
        for name in zeroed:
            state[name] = _carried(state[name], before, after, param)
        zeroed = []
    if group["spike_rule"] == "gaussian":
        zeroed += ["grad_mean", "grad_var"]
    dtype = DTYPES.get(group["state_dtype"], grad.dtype)
    for name in zeroed:
        if name in state and state[name].shape == shape:
            state[name].zero_()
        else:
            state[name] = torch.zeros(shape, dtype=dtype, device=param.device)
    mask.to_state(after, state)
    state["updates"] = state.get("updates", 0)
    state["age"] = 0
    state["resets"] = resets


def entries(state: State, param: Tensor, grad: Tensor) -> Entries:
    """The entries that train, flat. A parameter that is not contiguous is copied."""
    return Entries(
        param=flat(param),
        grad=flat(grad),
        exp_avg=state["exp_avg"].view(-1),
        exp_avg_sq=state["exp_avg_sq"].view(-1),
        mask=mask.from_state(state),
        grad_mean=state["grad_mean"].view(-1) if "grad_mean" in state else None,
        grad_var=state["grad_var"].view(-1) if "grad_var" in state else None,
    )


def _carried(value: Tensor, before: Mask | None, after: Mask | None, param: Tensor) -> Tensor:
    """A moment brought from one mask to another: kept where both select an entry, else zero.

    It goes through an array as long as the parameter: this is the one place that needs one, and
    only at a reset.
    """
    whole = value.reshape(-1)
    if before is not None:
        whole = value.new_zeros(param.numel())
        whole[mask.positions(before, param.device)] = value
    return whole.view(param.shape) if after is None else whole[mask.positions(after, param.device)]
