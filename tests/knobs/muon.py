"""Knobs of Muon."""

from tests.knobs import ADAM

BASE = {"lr": 0.01, "adam_lr": 0.01}
PAIRS = {
    **ADAM,
    "momentum": (0.95, 0.8),
    "nesterov": (True, False),
    "ns_steps": (5, 3),
    "adjust_lr_fn": ("match_rms_adamw", "original"),
    "adam_lr": (0.01, 0.005),
}
