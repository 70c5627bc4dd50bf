"""Knobs of SOAP."""

from tests.knobs import ADAM
from tests.tiny_network import WIDTH

BASE = {"lr": 0.01, "precondition_every": 3}
PAIRS = {**ADAM, "precondition_every": (3, 4), "largest_side": (10_000, WIDTH)}
