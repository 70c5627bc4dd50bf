"""The state of one parameter: its moments, its mask, its counters.

This module owns how a parameter's state starts, restarts at a reset, and meets the flat
arithmetic of `update`. It promises that a reset that a parameter missed, having no gradient then,
happens before its next step, and that no state is kept for entries outside the mask.

State keys: `exp_avg` and `exp_avg_sq` are m and v, in the shape of the parameter, or of `selected`
where there is one: the flat positions of the trained entries. `updates` counts steps since the
start, `age` since the last reset, and `resets` the resets that the parameter has seen.
`grad_mean` and `grad_var` belong to the Gaussian spike rule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spam_lab.optim import selection
from spam_lab.optim.options import DTYPES
from spam_lab.optim.update import Entries

State = dict[str, Any]
Group = dict[str, Any]


def renew(
    state: State,
    param: Tensor,
    grad: Tensor,
    group: Group,
    rule: selection.Selection,
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
    before = state.get("selected")
    selected = None
    if group["density"] < 1:
        density, seed = group["density"], group["seed"]
        selected = selection.choose(rule, param, grad, density, seed, index, resets)
    shape = param.shape if selected is None else selected.shape
    zeroed = ["exp_avg", "exp_avg_sq"]
    if state and group["reselected"] == "keep":
        for name in zeroed:
            state[name] = _carried(state[name], before, selected, param)
        zeroed = []
    if group["spike_rule"] == "gaussian":
        zeroed += ["grad_mean", "grad_var"]
    dtype = DTYPES.get(group["state_dtype"], grad.dtype)
    for name in zeroed:
        if name in state and state[name].shape == shape:
            state[name].zero_()
        else:
            state[name] = torch.zeros(shape, dtype=dtype, device=param.device)
    if selected is not None:
        state["selected"] = selected
    else:
        state.pop("selected", None)
    state["updates"] = state.get("updates", 0)
    state["age"] = 0
    state["resets"] = resets


def gather(state: State, param: Tensor, grad: Tensor, bias_correction: str) -> Entries:
    """The entries that train, flat: views where the memory allows, copies elsewhere.

    Counts the step that they are gathered for.
    """
    weights, grad = param.reshape(-1), grad.reshape(-1)
    if "selected" in state:
        weights = weights.index_select(0, state["selected"])
        grad = grad.index_select(0, state["selected"])
    age = state["age"]
    state["updates"] += 1
    state["age"] += 1
    updates = {"running": state["updates"], "restarted": age + 1, "none": float("inf")}
    return Entries(
        param=weights,
        grad=grad,
        exp_avg=state["exp_avg"].view(-1),
        exp_avg_sq=state["exp_avg_sq"].view(-1),
        updates=updates[bias_correction],
        age=age,
        grad_mean=state["grad_mean"].view(-1) if "grad_mean" in state else None,
        grad_var=state["grad_var"].view(-1) if "grad_var" in state else None,
    )


def scatter(state: State, param: Tensor, weights: Tensor) -> None:
    """Put gathered weights back where they were not a view of the parameter."""
    if "selected" not in state:
        write(param, weights)
        return
    whole = param.reshape(-1)
    whole[state["selected"]] = weights
    write(param, whole)


def write(param: Tensor, flat: Tensor) -> None:
    """Copy `flat` into the parameter, unless it is the parameter's own memory."""
    if flat.data_ptr() != param.data_ptr():
        param.copy_(flat.view_as(param))


def _carried(values: Tensor, before: Tensor | None, after: Tensor | None, param: Tensor) -> Tensor:
    """Moments in the layout of the mask `after`: kept where `before` had them, zero elsewhere."""
    whole = values.reshape(-1)
    if before is not None:
        whole = values.new_zeros(param.numel())
        whole[before] = values
    return whole.view(param.shape) if after is None else whole.index_select(0, after)
