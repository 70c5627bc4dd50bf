"""Knobs of ZClip. Every fifth gradient of the tiny network is an outlier, first at the fifth."""

from tests.knobs import ADAM

BASE = {"lr": 0.01, "beta2": 0.99, "warmup_steps": 4, "max_norm": None}
PAIRS = {
    **ADAM,
    "alpha": (0.97, 0.8),
    "z_threshold": (2.5, 2.0),
    "max_norm": (None, 0.5),
    "warmup_steps": (4, 6),
}
