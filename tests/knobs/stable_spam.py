"""Knobs of Stable-SPAM."""

from tests.knobs import ADAM

BASE = {
    **{"lr": 0.01, "beta2": 0.99, "gamma1": 0.7, "gamma2": 0.9, "gamma3": 0.9, "delta_t": 6},
    "total_steps": 12,
}
PAIRS = {
    **ADAM,
    "gamma1": (0.7, 0.8),
    "gamma2": (0.9, 0.95),
    "gamma3": (0.9, 0.95),
    "delta_t": (6, 7),
    "total_steps": (12, None),
    "eta_min": (0.5, 0.6),
    "counters": ("repaired", "published"),
}
