"""Knobs of AdaGC. Every fifth gradient of the tiny network is an outlier, first at the fifth."""

from tests.knobs import ADAM

BASE = {"lr": 0.01, "beta2": 0.99, "warmup_steps": 4}
PAIRS = {
    **ADAM,
    "beta": (0.98, 0.8),
    "lambda_abs": (1.0, 0.5),
    "lambda_rel": (1.05, 1.5),
    "warmup_steps": (4, 6),
}
