"""What is recorded of a run's gradients while it trains: the spike observatory.

`spam_lab/train/observer.py` does it. It changes no number of the run, and costs time and memory, so
it is off unless asked for. It is part of the identity all the same: a run that was not observed
cannot be observed afterwards, so an observed one must be trained even where the same numbers are
there without observations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from spam_lab.config.fields import Problem, choice, flag, mapping, number, numbers, text


@dataclass
class ObserveConfig:
    """Gradient spikes, counted in every weight, and trajectories of sampled weights.

    Gradients are those of the global batch, before any clipping. The paper (Section 2) observes
    the first 1000 steps and calls a gradient a spike where its Gradient Spike Score is above 50.
    """

    name: str = text("none", doc="label: none, spikes")
    spikes: bool = flag(False, doc="count gradient spikes and follow sampled weights")
    window: int | None = number(
        None, low=1, unit="steps", doc="observe the first so many steps; null is all (paper: 1000)"
    )
    thresholds: list[float] = numbers(
        doc="Gradient Spike Scores above which a gradient is a spike (paper: 50)"
    )
    theta: float = number(
        5000.0, low=0, low_open=True, doc="SPAM's criterion, g^2 > theta v (paper: 5000)"
    )
    definition: str = choice(
        "all",
        ("all", "sampled"),
        doc="count by Definition P.1 in all weights, for up to 160 bytes a weight while the window "
        "is young (in bfloat16 135), or leave it to the sampled ones",
    )
    definitions: dict[str, Any] = mapping(
        doc="the definition that fits a GPU, by scale and model: a table that YAML looks up"
    )
    coordinates: int = number(
        64, low=1, unit="weights", doc="weights to follow in each kind of each layer"
    )
    seed: int = number(0, low=0, doc="of which weights are followed; the same in all runs")

    def cross_problems(self) -> list[Problem]:
        """Settings that make no sense together."""
        if not self.spikes:
            return []
        if self.thresholds and all(0 < t < math.inf for t in self.thresholds):
            return []
        allowed = "one number or more, each > 0, wherever observe.spikes=true"
        return [Problem("observe.thresholds", self.thresholds, allowed)]
