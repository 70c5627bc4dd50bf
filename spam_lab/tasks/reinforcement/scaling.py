"""The scale of what an agent sees and earns: running means and deviations over all copies.

Observations are standardised, rewards divided by the deviation of the discounted return so far, and
both limited to ±10, as CleanRL does for MuJoCo; here all copies of the environment share one
record. It promises that nothing changes but while a rollout is collected.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from spam_lab.tasks.reinforcement.environments import Flags, Numbers

LIMIT = 10.0
EPSILON = 1e-8


class Moments:
    """Mean and variance [D] of all rows seen, by the parallel formula of Chan et al. (1979)."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self.squares = np.zeros(width)  # the sum of squared distances from the mean

    def add(self, rows: Numbers) -> None:
        """Take in rows [N, D]."""
        count = self.count + len(rows)
        distance = rows.mean(axis=0) - self.mean
        self.squares += ((rows - rows.mean(axis=0)) ** 2).sum(axis=0)
        self.squares += distance**2 * (self.count * len(rows) / count)
        self.mean = self.mean + distance * (len(rows) / count)
        self.count = count

    @property
    def deviation(self) -> Numbers:
        """The standard deviation [D]; 1 before there are two rows."""
        if self.count < 2:
            return np.ones_like(self.mean)
        return np.asarray(np.sqrt(self.squares / self.count + EPSILON))

    def state_dict(self) -> dict[str, Any]:
        """What continues them."""
        tensors = {"mean": self.mean, "squares": self.squares}
        kept = {name: torch.from_numpy(value.copy()) for name, value in tensors.items()}
        return {"count": self.count, **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.count = state["count"]
        self.mean = state["mean"].numpy().copy()
        self.squares = state["squares"].numpy().copy()


class Scaling:
    """What is done to observations and rewards; nothing unless `active`."""

    def __init__(self, active: bool, copies: int, width: int, discount: float) -> None:
        self._active = active
        self._discount = discount
        self._observations = Moments(width)
        self._returns = Moments(1)
        self._running = np.zeros(copies)  # each copy's discounted return in its episode so far

    def see(self, observations: Numbers) -> None:
        """Take observations [N, D] into the record."""
        self._observations.add(observations)

    def observed(self, observations: Numbers) -> Numbers:
        """Observations [N, D] as the agent sees them."""
        if not self._active:
            return observations
        distance = observations - self._observations.mean
        return np.clip(distance / self._observations.deviation, -LIMIT, LIMIT)

    def earned(self, rewards: Numbers, ended: Flags) -> Numbers:
        """Rewards [N] as the agent learns from them; they enter the record."""
        if not self._active:
            return rewards
        self._running = self._running * self._discount + rewards
        self._returns.add(self._running[:, None])
        self._running[ended] = 0.0
        return np.clip(rewards / self._returns.deviation, -LIMIT, LIMIT)

    def state_dict(self) -> dict[str, Any]:
        """What continues the record."""
        return {
            "observations": self._observations.state_dict(),
            "returns": self._returns.state_dict(),
            "running": torch.from_numpy(self._running.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._observations.load_state_dict(state["observations"])
        self._returns.load_state_dict(state["returns"])
        self._running = state["running"].numpy().copy()
