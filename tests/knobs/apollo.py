"""Knobs of APOLLO."""

from tests.knobs import ADAM

BASE = {"lr": 0.02, "rank": 4, "update_interval": 5}
PAIRS = {
    **ADAM,
    "rank": (4, 3),
    "update_interval": (5, 6),
    "scale": (1.0, 2.0),
    "scale_by": ("channel", "tensor"),
    "norm_growth": (1.01, 1.02),
}
