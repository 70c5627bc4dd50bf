"""Knobs of low-rank training."""

from tests.knobs import ADAM

BASE = {"lr": 0.01, "rank": 4}
PAIRS = {**ADAM, "rank": (4, 3)}
