"""Knobs of GaLore."""

from tests.knobs import ADAM

BASE = {"lr": 0.02, "rank": 4, "update_interval": 5}
PAIRS = {**ADAM, "rank": (4, 3), "update_interval": (5, 6), "alpha": (0.25, 0.5)}
