"""When SPAM resets, how far it has warmed up again, and when it may clip.

This module owns the one clock of an optimizer, as pure functions of the 1-based number of the
call to `step`. It promises the phase of the reference code: resets fall on the calls dT, 2 dT, ...
and the first interval is warmed up by the learning-rate schedule alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


def warmup_scale(calls_since_reset: int, warmup_steps: int) -> float:
    """The factor phi on the learning rate, `calls_since_reset` calls after a reset.

    Algorithm 1 writes `1 - CosineAnnealing(Mod(t, dT), N)` without an amplitude. The reference
    code anneals from 0.99 with period N + 1, so that phi(0) = 0.01 and phi(c) = 1 from c = N on:

        phi(c) = 1 - 0.99 * (1 + cos(pi * c / (N + 1))) / 2     for c < N

    N = 0 warms nothing up: phi is 1 throughout.
    """
    if calls_since_reset >= warmup_steps:
        return 1.0
    angle = math.pi * calls_since_reset / (warmup_steps + 1)
    return 1.0 - 0.99 * (1.0 + math.cos(angle)) / 2.0


@dataclass(frozen=True)
class ResetClock:
    """The schedule of resets. All three are counted in calls to `step`.

    Attributes:
        delta_t: the interval dT between resets; None never resets.
        warmup_steps: N of the cosine warm-up after a reset. N > dT is legal: then phi never
            reaches 1.
        grace_steps: calls after the start and after each reset that do not clip. The paper has
            none and its Algorithm 1 taken literally never trains (v = 0 clips every gradient to
            0); the reference code waits 20 calls.
    """

    delta_t: int | None
    warmup_steps: int
    grace_steps: int

    def resets(self, call: int) -> int:
        """How many resets have happened, the one at this call included.

        The paper counts t from 0 and resets at Mod(t, dT) = 0, the start included; the reference
        code resets at the 1-based calls dT, 2 dT, ..., which is what happens here.
        """
        return 0 if self.delta_t is None else call // self.delta_t

    def scale(self, call: int) -> float:
        """The warm-up factor phi at this call; 1 before the first reset."""
        if self.delta_t is None or call < self.delta_t:
            return 1.0
        return warmup_scale(call % self.delta_t, self.warmup_steps)

    def clips(self, call: int) -> bool:
        """Whether this call is outside the grace after the start and after each reset.

        A grace that is as long as the interval leaves no call that clips.
        """
        if call < self.grace_steps:
            return False
        return self.delta_t is None or call % self.delta_t >= self.grace_steps
