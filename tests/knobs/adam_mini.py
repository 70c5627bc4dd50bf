"""Knobs of Adam-mini."""

from tests.knobs import ADAM
from tests.tiny_network import HEADS

BASE = {"lr": 0.01, "heads": HEADS}
PAIRS = {**ADAM, "heads": (HEADS, 2 * HEADS)}
