"""The options of SPAM: their names, their ranges, and the refusal of anything else.

This module owns what counts as a valid hyperparameter of the optimizer. It promises one form of
error, a ValueError that names the key, the value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spam_lab.optim.selection import RULES

OWN_SELECTION = "callable"
"""What groups and state dicts hold in place of a callable selection, which they cannot store."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

CHOICES: dict[str, tuple[str, ...]] = {
    "selection": (*RULES, OWN_SELECTION),
    "spike_rule": ("clip", "nullify", "gaussian", "none"),
    "bias_correction": ("running", "restarted", "none"),
    "unselected": ("freeze", "sgd", "sign"),
    "reselected": ("reset", "keep"),
    "arithmetic": ("fused", "stepwise"),
    "rounding": ("nearest", "stochastic"),
}

SHARED = (
    *("delta_t", "theta", "warmup_steps", "grace_steps", "clip_at_zero_moment"),
    *("state_dtype", "seed"),
    *CHOICES,
)
"""Options that are one value for the whole optimizer."""


def refused(key: str, value: Any, allowed: str) -> ValueError:
    """The error for a bad value."""
    return ValueError(f"{key}={value!r} is not allowed: {allowed}")


def dtype_name(dtype: torch.dtype | str | None) -> str | None:
    """A dtype or its name, as the name that a state dict can hold."""
    return str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype


def check_group(values: Mapping[str, Any]) -> None:
    """Refuse a bad value among the options that each parameter group has.

    Raises:
        ValueError: naming the key, the value and what is allowed.
    """
    lr = values["lr"]
    if isinstance(lr, Tensor):
        _require(lr.numel() == 1, "lr", lr, "a number or a tensor of one element")
    _require(lr >= 0, "lr", lr, ">= 0")
    betas = values["betas"]
    _require(
        len(betas) == 2 and all(0 <= beta < 1 for beta in betas), "betas", betas, "two in [0, 1)"
    )
    _require(0 <= values["eps"] < math.inf, "eps", values["eps"], ">= 0 and finite")
    decay = values["weight_decay"]
    _require(0 <= decay < math.inf, "weight_decay", decay, ">= 0 and finite")
    _require(0 < values["density"] <= 1, "density", values["density"], "> 0 and <= 1")


def check_shared(values: Mapping[str, Any]) -> None:
    """Refuse a bad value among the options of the whole optimizer.

    Raises:
        ValueError: naming the key, the value and what is allowed.
    """
    delta_t = values["delta_t"]
    if delta_t is not None:
        _require_integer("delta_t", delta_t, 1)
    for key in ("warmup_steps", "grace_steps"):
        _require_integer(key, values[key], 0)
    _require_integer("seed", values["seed"], None)
    _require(0 < values["theta"] < math.inf, "theta", values["theta"], "> 0 and finite")
    for key, options in CHOICES.items():
        _require(values[key] in options, key, values[key], f"one of {', '.join(options)}")
    flag = values["clip_at_zero_moment"]
    _require(isinstance(flag, bool), "clip_at_zero_moment", flag, "True or False")
    dtype = values["state_dtype"]
    _require(
        dtype is None or dtype in DTYPES,
        "state_dtype",
        dtype,
        f"None or one of {', '.join(DTYPES)}",
    )
    # One counter a tensor cannot correct moments of two ages.
    _require(
        not (values["reselected"] == "keep" and values["bias_correction"] == "restarted"),
        "bias_correction",
        "restarted",
        "running or none wherever reselected='keep'",
    )
    _require(
        not (values["rounding"] == "stochastic" and values["arithmetic"] == "stepwise"),
        "rounding",
        "stochastic",
        "nearest wherever arithmetic='stepwise'",
    )


def _require(condition: bool | Tensor, key: str, value: Any, allowed: str) -> None:
    if not condition:
        raise refused(key, value, allowed)


def _require_integer(key: str, value: Any, low: int | None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    allowed = "an integer" if low is None else f"an integer >= {low}"
    _require(whole and (low is None or value >= low), key, value, allowed)
