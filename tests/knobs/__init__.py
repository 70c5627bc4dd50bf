"""For every method, what makes each of its hyperparameters show: one module a method.

A module has `BASE`, a config under which the method trains `tests.tiny_network`, and `PAIRS`, two
values of every hyperparameter that must lead to different weights when all else is BASE. A pair
may carry what else it needs: `(first, second, {"other": value})`.
"""

from __future__ import annotations

import importlib
from typing import Any

COMMON: dict[str, tuple[Any, ...]] = {
    "lr": (0.01, 0.02),
    "weight_decay": (0.0, 0.1),
    "clip_value": (None, 0.001),
    "clip_norm": (None, 0.1),
}
"""What every method has."""

ADAM: dict[str, tuple[Any, ...]] = {
    **COMMON,
    "beta1": (0.9, 0.8),
    "beta2": (0.99, 0.9),
    "eps": (1e-6, 1e-1),
}

NOT_KNOBS = {"name", "learning_rates", "densities", "intervals", "ranks"}
"""Labels, and tables that a YAML reads a value from."""


def of(name: str) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """BASE and PAIRS of a method.

    Raises:
        ModuleNotFoundError: for a method without: add tests/knobs/NAME.py.
    """
    module = importlib.import_module(f"tests.knobs.{name}")
    return module.BASE, module.PAIRS
