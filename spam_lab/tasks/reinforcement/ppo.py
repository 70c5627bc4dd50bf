"""PPO (Schulman et al., 2017) as a task: what it is trained on, its loss, and how it is judged.

A step is one minibatch. Whenever the last epoch's minibatches are used up, a rollout is collected
with the weights as they are. Which noise and which minibatches is a function of `data_seed` and of
the rollout's number, so every rank has the same rollout, and a run goes on in the middle of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from spam_lab.config.schema import RunConfig
from spam_lab.data.errors import DataError
from spam_lab.data.order import permutation, random_state
from spam_lab.tasks.registry import TaskBatch
from spam_lab.tasks.reinforcement import ReinforcementConfig
from spam_lab.tasks.reinforcement.environments import Environment, Environments
from spam_lab.tasks.reinforcement.policies import ActorCritic, Policies, policies_of
from spam_lab.tasks.reinforcement.rollouts import Transitions, collect
from spam_lab.tasks.reinforcement.scaling import Scaling

STARTS, ACTIONS, ORDER = range(3)
"""What random numbers are for: each has a stream of its own under a data_seed."""

FIRST_EPISODE = 2**31
"""The seed of the first evaluation episode: training draws its seeds below it."""

NOBODY = -1
"""The seed of an episode that is not played: it fills a rank's share."""


@dataclass(frozen=True)
class Episodes:
    """Evaluation episodes by their seeds, int64 [K]."""

    seeds: Tensor

    @property
    def weight(self) -> int:
        """The episodes that are played."""
        return int((self.seeds != NOBODY).sum())

    def to(self, device: torch.device | str) -> Episodes:
        """The same: environments are on the CPU."""
        return self

    def split(self, size: int) -> list[Episodes]:
        """`size` episodes each, in order."""
        starts = range(0, len(self.seeds), size)
        return [Episodes(self.seeds[start : start + size]) for start in starts]

    def share(self, rank: int, size: int) -> Episodes:
        """The episodes of one of `size` ranks, every rank equally many: nobody plays the rest."""
        each = -(-len(self.seeds) // size)
        mine = self.seeds[rank * each : (rank + 1) * each]
        return Episodes(nn.functional.pad(mine, (0, each - len(mine)), value=NOBODY))


class Reinforcement:
    """An agent and its environments."""

    def __init__(self, config: RunConfig, place: str) -> None:
        assert isinstance(config.task, ReinforcementConfig)
        task = config.task
        self._config, self._data_seed = task, config.data_seed
        starts = random_state(self._data_seed, STARTS).randint(
            FIRST_EPISODE, size=task.environments
        )
        self._environments = Environments(task.environment, starts.tolist())
        self._policies: Policies = policies_of(self._environments.action_space)
        width = self._environments.observations.shape[1]
        self._scaling = Scaling(task.normalize, task.environments, width, task.discount)
        torch.manual_seed(config.seed)
        # Drawn on the CPU in float32, so that a seed means the same weights everywhere.
        model = ActorCritic(width, self._policies, task.width)
        dtype: torch.dtype = getattr(torch, config.precision.weights)
        self.model: nn.Module = model.to(place, dtype)
        seeds = torch.arange(task.episodes) + FIRST_EPISODE
        self.validation: Sequence[TaskBatch] = [Episodes(seeds)]
        self.unit = "transitions"
        self.units_per_step = config.batch_size
        self._played: list[Environment] = []
        self._rollout: Transitions | None = None
        self._number = 0  # rollouts collected
        self._used = 0  # minibatches taken from the last one
        self._rows = task.environments * task.horizon
        self._size = config.batch_size
        self.cycle = self._rows // self._size * task.epochs  # a rollout before every so many steps

    def next_batch(self) -> Transitions:
        """The next minibatch; a rollout is collected first where there is none left."""
        per_epoch = self._rows // self._size
        if self._rollout is None or self._used == self.cycle:
            self._collect()
        assert self._rollout is not None
        epoch, place = divmod(self._used, per_epoch)
        order = permutation(self._rows, self._data_seed, ORDER, self._number, epoch)
        self._used += 1
        rows = order[place * self._size : (place + 1) * self._size]
        return self._rollout.minibatch(torch.from_numpy(rows))

    def loss(self, module: nn.Module, batch: TaskBatch) -> Tensor:
        """The sum of PPO's losses of all transitions that count."""
        transitions = cast(Transitions, batch)
        policy, values = module(transitions.observations)
        return ppo_loss(self._policies, policy, values, transitions, self._config)

    def score(self, model: nn.Module, batch: TaskBatch) -> Tensor:
        """Sums over the episodes: returns, lengths, how many. NaN where the policy is no number."""
        seeds = [seed for seed in cast(Episodes, batch).seeds.tolist() if seed != NOBODY]
        returns, lengths = self._play(model, seeds)
        totals = torch.tensor([returns, lengths, len(seeds)], dtype=torch.float64)
        return totals.to(next(model.parameters()).device)

    def summary(self, totals: Sequence[float]) -> dict[str, float]:
        """The mean return and length of an episode."""
        returns, lengths, episodes = totals
        return {"validation/return": returns / episodes, "validation/length": lengths / episodes}

    def updated(self, step: int) -> None:
        """Nothing is kept of a step."""

    def state_dict(self) -> dict[str, Any]:
        """The rollout and how much of it is used, the environments, and the scaling."""
        return {
            "environment": self._config.environment,
            "number": self._number,
            "used": self._used,
            "rollout": None if self._rollout is None else dict(vars(self._rollout)),
            "environments": self._environments.state_dict(),
            "scaling": self._scaling.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            DataError: it is of another environment, or of another number of copies.
        """
        copies = len(state["environments"]["each"])
        kept = (state["environment"], copies)
        own = (self._config.environment, self._config.environments)
        if kept != own:
            raise DataError(f"the checkpoint is of {kept[1]} x {kept[0]}, not {own[1]} x {own[0]}")
        self._number, self._used = state["number"], state["used"]
        rollout = state["rollout"]
        self._rollout = None if rollout is None else Transitions(**rollout)
        self._environments.load_state_dict(state["environments"])
        self._scaling.load_state_dict(state["scaling"])

    def close(self) -> None:
        """Nothing reads ahead."""

    def _collect(self) -> None:
        self._number += 1
        self._used = 0
        random = random_state(self._data_seed, ACTIONS, self._number)
        shape = (self._config.horizon, self._config.environments)
        noise = self._policies.draw(random, shape)
        self._rollout = collect(
            self.model,
            self._policies,
            self._environments,
            self._scaling,
            noise,
            self._config.discount,
            self._config.trace,
        )

    def _play(self, model: nn.Module, seeds: Sequence[int]) -> tuple[float, float]:
        """The sums of returns and lengths of one episode a seed, all played side by side."""
        if not seeds:
            return 0.0, 0.0
        while len(self._played) < len(seeds):
            self._played.append(Environment(self._config.environment))
        observations = np.stack(
            [played.reset(seed) for played, seed in zip(self._played, seeds, strict=False)]
        )
        place = next(model.parameters()).device
        going = set(range(len(seeds)))
        returns, lengths = 0.0, 0
        while going:
            seen = torch.from_numpy(self._scaling.observed(observations).astype(np.float32))
            policy, _ = model(seen.to(place))
            if not torch.isfinite(policy).all():
                return math.nan, math.nan
            actions = self._policies.executed(self._policies.mode(policy))
            for number in sorted(going):
                step = self._played[number].step(actions[number])
                observations[number], reward, terminated, truncated = step
                returns, lengths = returns + reward, lengths + 1
                if terminated or truncated:
                    going.remove(number)
        return returns, lengths


def ppo_loss(
    policies: Policies,
    policy: Tensor,
    values: Tensor,
    batch: Transitions,
    config: ReinforcementConfig,
) -> Tensor:
    """The sum over transitions of PPO's three losses (Schulman et al., 2017, equation 9).

    The surrogate is clipped (equation 7); the value's loss is half the larger square of the error
    and of the error of a value that moved by at most `clip_ratio` (CleanRL); entropy is a reward.
    """
    limit = config.clip_ratio
    ratio = (policies.log_probability(policy, batch.actions) - batch.log_probabilities).exp()
    gain = torch.minimum(
        ratio * batch.advantages, ratio.clamp(1 - limit, 1 + limit) * batch.advantages
    )
    moved = batch.values + (values - batch.values).clamp(-limit, limit)
    error = torch.maximum((values - batch.returns) ** 2, (moved - batch.returns) ** 2) / 2
    each = config.value_weight * error - gain - config.entropy_weight * policies.entropy(policy)
    return (each * batch.counted).sum()
