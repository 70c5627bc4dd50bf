"""Where a run computes: what `train.device` means on this machine.

It promises a device that is there, or one line that says what is missing.
"""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """The device of `train.device`. Raises RuntimeError where a GPU is asked for and none is."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RuntimeError("train.device=cuda, but torch sees no GPU here: use train.device=cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
