"""Knobs of SPAM."""

from tests.knobs import ADAM

BASE = {
    **{"lr": 0.01, "delta_t": 6, "theta": 50.0, "warmup_steps": 2, "density": 0.5},
    **{"grace_steps": 2, "beta2": 0.99},
}
PAIRS = {
    **ADAM,
    "delta_t": (6, 7),
    "theta": (50.0, 20.0),
    "warmup_steps": (2, 3),
    "density": (0.5, 0.6),
    "selection": ("random", "gradient_magnitude"),
    "spike_rule": ("clip", "nullify"),
    "grace_steps": (2, 5),
    "clip_at_zero_moment": (False, True),
    "bias_correction": ("running", "restarted"),
    "unselected": ("freeze", "sgd"),
    "reselected": ("reset", "keep"),
    "state_dtype": (None, "bfloat16"),
    "rounding": ("nearest", "stochastic", {"state_dtype": "bfloat16"}),
    "arithmetic": ("fused", "stepwise", {"state_dtype": "bfloat16"}),
}
