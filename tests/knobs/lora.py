"""Knobs of LoRA."""

from tests.knobs import ADAM

BASE = {"lr": 0.01, "rank": 4, "alpha": 8.0}
PAIRS = {**ADAM, "rank": (4, 3), "alpha": (8.0, 4.0), "dropout": (0.05, 0.0)}
