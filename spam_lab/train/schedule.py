"""The learning-rate schedule, a pure function of the step: linear warm-up, then cosine.

The paper (Appendix D) warms up over 1000 steps and decays to 10 % of the peak. Update s of T, with
W warm-up steps, uses the peak times

    s / W                                                       s <= W
    r + (1 - r) * (1 + cos(pi * (s - W) / (T - W))) / 2         s > W

so the first update already moves (the reference script's first learning rate is 0) and the last one
has exactly the final ratio r.
"""

from __future__ import annotations

import math

from spam_lab.config.schema import ScheduleConfig


def lr_factor(step: int, schedule: ScheduleConfig) -> float:
    """The multiplier of the peak learning rate for update `step`, counted from 1."""
    warmup, steps, ratio = schedule.warmup_steps, schedule.steps, schedule.final_ratio
    if step <= warmup:
        return step / warmup
    if steps == warmup:
        return 1.0
    progress = (step - warmup) / (steps - warmup)
    return ratio + (1 - ratio) * (1 + math.cos(math.pi * progress)) / 2
