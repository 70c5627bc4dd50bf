"""Actor and critic in one module, and the two kinds of policies that the actor's outputs stand for.

A policy is a tensor [B, P]: the logits of discrete actions, or means and log deviations of
continuous ones. Sampling takes its random numbers as an argument, so an action is a function of
weights, observation and these.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Policies(Protocol):
    """How the actor's outputs are read.

    Attributes:
        outputs: of the actor's last layer.
        noise: random numbers that an action takes.
    """

    outputs: int
    noise: int

    def draw(self, random: np.random.RandomState, shape: tuple[int, ...]) -> Tensor:
        """Random numbers for `shape` actions: float32 [*shape, noise]."""
        ...

    def sample(self, policy: Tensor, noise: Tensor) -> Tensor:
        """Actions [B] or [B, A] from a policy [B, P] and noise [B, noise]."""
        ...

    def mode(self, policy: Tensor) -> Tensor:
        """The likeliest actions."""
        ...

    def log_probability(self, policy: Tensor, actions: Tensor) -> Tensor:
        """[B]."""
        ...

    def entropy(self, policy: Tensor) -> Tensor:
        """[B], in nats."""
        ...

    def executed(self, actions: Tensor) -> Any:
        """The actions as the environments take them, in a sequence."""
        ...


class Discrete:
    """One of `count` actions, by logits [B, count]."""

    def __init__(self, count: int) -> None:
        self.outputs = self.noise = count

    def draw(self, random: np.random.RandomState, shape: tuple[int, ...]) -> Tensor:
        """Gumbel noise: the largest of logits plus it is a sample."""
        return _float32(random.gumbel(size=(*shape, self.noise)))

    def sample(self, policy: Tensor, noise: Tensor) -> Tensor:
        """int64 [B]."""
        return (policy + noise).argmax(dim=-1)

    def mode(self, policy: Tensor) -> Tensor:
        """int64 [B]."""
        return policy.argmax(dim=-1)

    def log_probability(self, policy: Tensor, actions: Tensor) -> Tensor:
        """[B]."""
        return policy.log_softmax(dim=-1).gather(-1, actions[:, None]).squeeze(-1)

    def entropy(self, policy: Tensor) -> Tensor:
        """[B]."""
        logarithms = policy.log_softmax(dim=-1)
        return -(logarithms.exp() * logarithms).sum(dim=-1)

    def executed(self, actions: Tensor) -> Any:
        """A list of numbers."""
        return actions.tolist()


class Continuous:
    """Independent normal actions, by means and log deviations [B, 2 A].

    What is executed is limited to the environment's range; what is learned from is not.
    """

    def __init__(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        self._low, self._high = low, high
        self.outputs = self.noise = len(low)

    def draw(self, random: np.random.RandomState, shape: tuple[int, ...]) -> Tensor:
        """Standard normal."""
        return _float32(random.standard_normal(size=(*shape, self.noise)))

    def sample(self, policy: Tensor, noise: Tensor) -> Tensor:
        """[B, A]."""
        mean, log_deviation = policy.chunk(2, dim=-1)
        return mean + log_deviation.exp() * noise

    def mode(self, policy: Tensor) -> Tensor:
        """[B, A]."""
        return policy.chunk(2, dim=-1)[0]

    def log_probability(self, policy: Tensor, actions: Tensor) -> Tensor:
        """[B]."""
        mean, log_deviation = policy.chunk(2, dim=-1)
        distance = (actions - mean) * (-log_deviation).exp()
        each = -0.5 * distance**2 - log_deviation - 0.5 * math.log(2 * math.pi)
        return each.sum(dim=-1)

    def entropy(self, policy: Tensor) -> Tensor:
        """[B]."""
        log_deviation = policy.chunk(2, dim=-1)[1]
        return (log_deviation + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def executed(self, actions: Tensor) -> Any:
        """[B, A]; what is not a number becomes 0, as a run that diverged need not break MuJoCo."""
        numbers = np.nan_to_num(actions.cpu().numpy(), nan=0.0)
        return np.clip(numbers, self._low, self._high)


def policies_of(action_space: Any) -> Policies:
    """The policies over the actions of an environment."""
    if hasattr(action_space, "n"):
        return Discrete(int(action_space.n))
    return Continuous(action_space.low, action_space.high)


class ActorCritic(nn.Module):
    """Two separate networks of two hidden layers, tanh, orthogonal weights, biases of 0 (CleanRL).

    Continuous policies have a log deviation for each action that does not depend on the
    observation, 0 at first.
    """

    def __init__(self, observations: int, policies: Policies, width: int) -> None:
        super().__init__()
        self.actor = _network(observations, width, policies.outputs, gain=0.01)
        self.critic = _network(observations, width, 1, gain=1.0)
        self.log_deviation: nn.Parameter | None = None
        if isinstance(policies, Continuous):
            self.log_deviation = nn.Parameter(torch.zeros(policies.outputs))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Policies [B, P] and values [B] of observations [B, D], in float32."""
        seen = observations.to(next(self.parameters()).dtype)
        policy, value = self.actor(seen), self.critic(seen)
        if self.log_deviation is not None:
            policy = torch.cat([policy, self.log_deviation.expand_as(policy)], dim=-1)
        return policy.float(), value.float().squeeze(-1)


def _network(inputs: int, width: int, outputs: int, gain: float) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), nn.Linear(width, width), nn.Linear(width, outputs)]
    for layer, size in zip(layers, (math.sqrt(2), math.sqrt(2), gain), strict=True):
        nn.init.orthogonal_(layer.weight, size)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def _float32(numbers: Any) -> Tensor:
    return torch.from_numpy(np.asarray(numbers, dtype=np.float32))
