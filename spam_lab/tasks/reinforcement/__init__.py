"""Reinforcement learning with PPO on gymnasium's CartPole and MuJoCo environments.

It owns the task's keys and its place in the registry; environments, policies, rollouts and PPO
itself have a module each. It is judged by the mean return of fixed episodes, played without
exploration.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from omegaconf import MISSING

from spam_lab.config.fields import ConfigError, Problem, flag, number, text
from spam_lab.config.schema import RunConfig, TaskConfig
from spam_lab.tasks.registry import task

CART_POLE = "CartPole-v1"
INSTALL = "pip install 'spam_lab[tasks]'"


@dataclass
class ReinforcementConfig(TaskConfig):
    """PPO (Schulman et al., 2017) as CleanRL has it; its values are the defaults for CartPole.

    A rollout is `environments` times `horizon` transitions; each epoch goes through it once, in
    minibatches of `batch_size`. The paper names reinforcement learning and no setting of it.
    """

    name: str = text("reinforcement", doc="registry name of the task")
    environment: str = text(MISSING, doc=f"{CART_POLE}, or one of gymnasium's MuJoCo tasks, -v5")
    environments: int = number(4, low=1, doc="copies of it that a rollout is collected from")
    horizon: int = number(128, low=1, unit="steps", doc="steps of each copy in a rollout")
    epochs: int = number(4, low=1, doc="times that a rollout is gone through")
    discount: float = number(0.99, low=0, high=1, doc="gamma")
    trace: float = number(0.95, low=0, high=1, doc="lambda of the advantage estimation (GAE)")
    clip_ratio: float = number(
        0.2, low=0, low_open=True, doc="PPO's epsilon, of the probability ratio and of the value"
    )
    value_weight: float = number(0.5, low=0, doc="weight of the value's loss")
    entropy_weight: float = number(0.01, low=0, doc="weight of the policy's entropy")
    normalize: bool = flag(
        False, doc="standardise observations, and divide rewards by the return's deviation"
    )
    width: int = number(64, low=1, doc="units of each of the two hidden layers")
    episodes: int = number(10, low=1, doc="episodes of an evaluation, of fixed seeds")

    def cross_problems(self) -> list[Problem]:
        """A rollout must divide into minibatches whose advantages have a deviation."""
        rows, size = self.environments * self.horizon, self.batch_size
        if size is None or (size > 1 and rows % size == 0):
            return []
        allowed = f"a divisor of task.environments * task.horizon = {rows}, and at least 2"
        return [Problem("task.batch_size", size, allowed)]


def check(config: RunConfig) -> None:
    """Refuse an environment that is not installed, or whose state cannot be saved.

    Raises:
        ConfigError: naming the package and the command that installs it, or what is allowed.
    """
    assert isinstance(config.task, ReinforcementConfig)
    name = config.task.environment
    needed = ["gymnasium"] if name == CART_POLE else ["gymnasium", "mujoco"]
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"task.environment={name} needs what is not installed ({', '.join(missing)}): {INSTALL}"
        )
    known = _environments()
    if name not in known:
        near = get_close_matches(name, known) or known
        raise ConfigError.of([Problem("task.environment", name, f"one of {', '.join(near)}")])
    if config.train.sharding == "fsdp":
        allowed = "auto or ddp: episodes of unequal length cannot be played by shards of a model"
        raise ConfigError.of([Problem("train.sharding", "fsdp", allowed)])


def _environments() -> list[str]:
    """CartPole and the MuJoCo environments of the version whose states can be saved."""
    import gymnasium

    mujoco = [
        name
        for name, spec in gymnasium.registry.items()
        if str(spec.entry_point).startswith("gymnasium.envs.mujoco.") and spec.version == 5
    ]
    return [CART_POLE, *sorted(mujoco)]


@task("reinforcement", ReinforcementConfig, check)
def open_reinforcement(config: RunConfig, place: str) -> Any:
    """The run's actor and critic, and its environments."""
    check(config)
    from spam_lab.tasks.reinforcement.ppo import Reinforcement

    return Reinforcement(config, place)
