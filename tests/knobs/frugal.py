"""Knobs of FRUGAL."""

from tests.knobs import ADAM

BASE = {"lr": 0.01, "update_interval": 5}
PAIRS = {
    **ADAM,
    "density": (0.25, 0.5),
    "selection": ("columns", "random"),
    "update_interval": (5, 6),
    "sign_lr_ratio": (1.0, 0.5),
}
