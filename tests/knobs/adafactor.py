"""Knobs of Adafactor."""

from tests.knobs import COMMON

BASE = {"lr": 0.01}
PAIRS = {
    **COMMON,
    "beta1": (None, 0.9),
    "decay_rate": (-0.8, -0.5),
    "eps1": (1e-30, 1e-3),
    "clip_threshold": (1.0, 0.5),
}
