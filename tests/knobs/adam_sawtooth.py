"""Knobs of Adam with SPAM's saw-tooth."""

from tests.knobs import ADAM

BASE = {"lr": 0.01, "interval": 6, "sawtooth_warmup": 2}
PAIRS = {
    **ADAM,
    "interval": (6, 7),
    "sawtooth_warmup": (2, 3),
    "state_dtype": (None, "bfloat16"),
}
