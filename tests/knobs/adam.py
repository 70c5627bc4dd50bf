"""Knobs of Adam."""

from tests.knobs import ADAM

BASE = {"lr": 0.01}
PAIRS = ADAM
