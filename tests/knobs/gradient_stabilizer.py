"""Knobs of GradientStabilizer."""

from tests.knobs import ADAM

BASE = {"lr": 0.01, "beta2": 0.99, "gamma2": 0.99}
PAIRS = {
    **ADAM,
    "gamma1": (0.6, 0.7),
    "gamma2": (0.99, 0.9),
    "correction": ("code", "paper"),
}
