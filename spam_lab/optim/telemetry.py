"""What one optimizer step did, kept on the device until somebody reads it.

This module owns the record that `SPAM.telemetry` holds. It promises that filling it makes the
host wait for nothing; reading `clipped` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Telemetry:
    """The last step, in numbers.

    Attributes:
        kinds: labels of the parameters ("kind" of their groups, "other" without one), in order of
            first appearance.
        clipped: entries that the spike rule changed in this step, an int64 tensor with one count
            a kind, on the device of the first parameter.
        entries: entries that the spike rule examined in this step, over all kinds; 0 during the
            grace and for `spike_rule="none"`.
        warmup_scale: phi of this step, the factor on the learning rate after a reset.
        resets: resets so far, the one at this step included.
    """

    kinds: tuple[str, ...]
    clipped: Tensor
    entries: int
    warmup_scale: float
    resets: int
