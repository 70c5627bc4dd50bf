"""How a scale maps the paper's values: the one place that turns 500 paper steps into 50 nano steps.

YAML and sweeps write `${scaled:QUANTITY,VALUE}` with the value the paper prints; the resolver
registered here applies the scale group that is in force. Sizes are divided and rounded, so every
model keeps the family's shape. Intervals and the decay of the second moment are divided together:
an interval 10 times shorter and a memory of v 10 times shorter (beta2 = 0.999 becomes 0.99) leave
three things as in the paper: the share of a run's intervals spent in the warm-up, the learning-rate
inflation after a reset, and the size, in standard deviations, of a gradient that the threshold
calls a spike (theta * v after k steps is about theta * k * (1 - beta2) * sigma**2).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spam_lab.config.fields import ConfigError


def _size(value: float, divisor: float) -> int:
    return max(1, int(value / divisor + 0.5))


def _steps(value: float, divisor: float) -> int:
    return 0 if value == 0 else _size(value, divisor)


def _decay(value: float, divisor: float) -> float:
    return round(1 - (1 - value) * divisor, 12)


def _rate(value: float, multiplier: float) -> float:
    return float(f"{value * multiplier:.12g}")


QUANTITIES: dict[str, tuple[str, Callable[[float, float], float]]] = {
    "width": ("width", _size),
    "heads": ("heads", _size),
    "depth": ("depth", _size),
    "vocabulary": ("vocabulary", _size),
    "run_length": ("run_length", _steps),
    "interval": ("interval", _steps),
    "decay": ("interval", _decay),
    "lr": ("lr", _rate),
}
"""Quantity -> (field of ScaleConfig that holds its factor, the mapping)."""

_SCALED = re.compile(r"\$\{scaled:\w+,[-+.\w]+\}")


def scaled(quantity: str, value: float, *, _root_: DictConfig) -> float | int:
    """The paper's `value` of `quantity` at the scale in force."""
    if quantity not in QUANTITIES:
        raise ConfigError(f"scaled:{quantity} is not known: one of {', '.join(QUANTITIES)}")
    factor, mapping = QUANTITIES[quantity]
    return mapping(float(value), float(_root_.scale[factor]))


def is_scaled(value: object) -> bool:
    """Whether a value is a number of the paper to be mapped: it looks at the scale alone."""
    return isinstance(value, str) and bool(_SCALED.fullmatch(value))


def register_resolver() -> None:
    """Make `${scaled:...}` known to OmegaConf; safe to call again."""
    resolver: Any = scaled
    OmegaConf.register_new_resolver("scaled", resolver, replace=True)
