"""Rollouts: transitions collected with the current policy, their advantages, and minibatches.

A rollout is a function of the weights, of the environments' states and of the noise it is given.
An episode that is cut off by the time limit goes on in the estimate: the value of where it stood
stands for the rest (CleanRL takes it for an end).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spam_lab.tasks.reinforcement.environments import Environments, Flags, Numbers
from spam_lab.tasks.reinforcement.policies import Policies
from spam_lab.tasks.reinforcement.scaling import Scaling


@dataclass(frozen=True)
class Transitions:
    """B transitions.

    Attributes:
        observations: [B, D], as the agent saw them.
        actions: [B] or [B, A], as sampled.
        log_probabilities: [B], of the actions when they were sampled.
        values: [B], as the critic had them then.
        advantages: [B]; of a minibatch, standardised.
        returns: [B], what the critic is to say.
        counted: [B], 1, or 0 where a row only fills a rank's share.
    """

    observations: Tensor
    actions: Tensor
    log_probabilities: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    counted: Tensor

    @property
    def weight(self) -> int:
        """The transitions that count."""
        return int(self.counted.sum())

    def to(self, device: torch.device | str) -> Transitions:
        """The same transitions on `device`."""
        return self.each(lambda tensor: tensor.to(device))

    def split(self, size: int) -> list[Transitions]:
        """`size` rows each, in order."""
        starts = range(0, len(self.counted), size)
        return [self._rows(slice(start, start + size)) for start in starts]

    def share(self, rank: int, size: int) -> Transitions:
        """The rows of one of `size` ranks, every rank equally many: some that do not count fill
        up."""
        if size == 1:
            return self
        rows = len(self.counted)
        each = -(-rows // size)
        places = torch.arange(rank * each, (rank + 1) * each)
        mine = self._rows(places.clamp(max=rows - 1))
        counted = torch.where(places < rows, mine.counted, torch.zeros_like(mine.counted))
        return Transitions(**{**vars(mine), "counted": counted})

    def minibatch(self, rows: Tensor) -> Transitions:
        """Some rows, their advantages with mean 0 and deviation 1 among themselves."""
        chosen = self._rows(rows)
        advantages = chosen.advantages - chosen.advantages.mean()
        advantages = advantages / (chosen.advantages.std() + 1e-8)
        return Transitions(**{**vars(chosen), "advantages": advantages})

    def each(self, change: Callable[[Tensor], Tensor]) -> Transitions:
        """Every tensor changed alike."""
        return Transitions(*(change(getattr(self, field.name)) for field in fields(self)))

    def _rows(self, rows: Any) -> Transitions:
        return self.each(lambda tensor: tensor[rows])


@torch.no_grad()
def collect(
    model: nn.Module,
    policies: Policies,
    environments: Environments,
    scaling: Scaling,
    noise: Tensor,
    discount: float,
    trace: float,
) -> Transitions:
    """T steps of N environments, step by step: T * N transitions on the CPU.

    Args:
        model: actor and critic, wherever they are.
        policies: how the actor's outputs are read.
        environments: they go on from where they are.
        scaling: of observations and rewards; it learns from what it sees.
        noise: [T, N, noise], what actions are sampled with.
        discount: gamma.
        trace: lambda.
    """
    place = next(model.parameters()).device

    def judged(observations: Numbers) -> tuple[Tensor, Tensor, Tensor]:
        seen = torch.from_numpy(scaling.observed(observations).astype(np.float32))
        policy, value = model(seen.to(place))
        return seen, policy.cpu(), value.cpu()

    kept: list[tuple[Tensor, ...]] = []
    earned: list[tuple[Numbers, Flags, Flags, Numbers]] = []
    for draw in noise:
        scaling.see(environments.observations)
        seen, policy, value = judged(environments.observations)
        action = policies.sample(policy, draw)
        kept.append((seen, action, policies.log_probability(policy, action), value))
        steps = environments.step(policies.executed(action))
        ended = steps.terminated | steps.truncated
        cut_off = np.zeros(len(ended))
        if steps.truncated.any():
            cut_off = judged(steps.successors)[2].double().numpy()
        earned.append((scaling.earned(steps.rewards, ended), steps.terminated, ended, cut_off))
    last = judged(environments.observations)[2]
    observations, actions, log_probabilities, values = (
        torch.stack(column) for column in zip(*kept, strict=True)
    )
    rewards, terminated, ended, cut_off = (np.stack(column) for column in zip(*earned, strict=True))
    following = torch.cat([values[1:], last[None]]).double().numpy()
    successors = np.where(ended, cut_off, following)
    gained = values.double().numpy()
    advantages = advantages_of(rewards, gained, successors, terminated, ended, discount, trace)
    whole = (
        observations,
        actions,
        log_probabilities,
        values,
        torch.from_numpy(advantages.astype(np.float32)),
        torch.from_numpy((advantages + gained).astype(np.float32)),
        torch.ones_like(values),
    )
    return Transitions(*whole).each(lambda tensor: tensor.flatten(0, 1))


def advantages_of(
    rewards: Numbers,
    values: Numbers,
    successors: Numbers,
    terminated: Flags,
    ended: Flags,
    discount: float,
    trace: float,
) -> Numbers:
    """Generalised advantages [T, N] (Schulman et al., 2016), all arguments [T, N].

    `successors` are the values of where each step led; those of a terminated one do not matter.
    `ended` marks the last step of an episode, whether it terminated or was cut off.
    """
    errors = rewards + discount * np.where(terminated, 0.0, successors) - values
    advantages = np.zeros_like(errors)
    following = np.zeros_like(errors[0])
    for step in reversed(range(len(errors))):
        following = errors[step] + discount * trace * np.where(ended[step], 0.0, following)
        advantages[step] = following
    return advantages
