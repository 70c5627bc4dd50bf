"""Knobs of ReLoRA."""

from tests.knobs import lora

BASE = {**lora.BASE, "merge_every": 5, "rewarm_steps": 2, "reset_fraction": 0.9}
PAIRS = {
    **lora.PAIRS,
    "merge_every": (5, 6),
    "rewarm_steps": (2, 3),
    "reset_fraction": (0.9, 0.5),
}
