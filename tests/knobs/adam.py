"""Knobs of Adam."""

from tests.knobs import ADAM

BASE = {"lr": 0.01}
PAIRS = {
    **ADAM,
    "state_dtype": (None, "bfloat16"),
    "rounding": ("nearest", "stochastic", {"state_dtype": "bfloat16"}),
}
