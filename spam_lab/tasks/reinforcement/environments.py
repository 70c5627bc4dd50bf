"""Environments of gymnasium whose whole state can be saved and put back.

They are used without gymnasium's wrappers: the time limit is counted here, and an episode's end is
told apart from the limit. It promises that an environment put back goes on bit for bit, its random
numbers included.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

LOG = logging.getLogger(__name__)

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Steps:
    """One step of N environments.

    Attributes:
        rewards: [N].
        terminated: [N], the task ended there: nothing comes after.
        truncated: [N], the time was up: what would have come is cut off.
        successors: [N, D], the observations that the actions led to, before any reset.
    """

    rewards: Numbers
    terminated: Flags
    truncated: Flags
    successors: Numbers


class Environment:
    """One environment and how many steps its episode has."""

    def __init__(self, name: str) -> None:
        self._of_mujoco = ".mujoco." in str(gymnasium.spec(name).entry_point)
        with _quiet() if self._of_mujoco else contextlib.nullcontext():
            made: Any = gymnasium.make(name, disable_env_checker=True)
        self._made: Any = made.unwrapped
        self._limit: int = made.spec.max_episode_steps
        self._elapsed = 0
        self.observation_space: Any = self._made.observation_space
        self.action_space: Any = self._made.action_space

    def reset(self, seed: int | None = None) -> Numbers:
        """Begin an episode: its first observation [D]. A seed starts the random numbers anew."""
        self._elapsed = 0
        observation, _ = self._made.reset(seed=seed)
        return np.asarray(observation, dtype=np.float64)

    def step(self, action: Any) -> tuple[Numbers, float, bool, bool]:
        """Observation [D], reward, whether the task ended, whether only the time was up."""
        observation, reward, terminated, _, _ = self._made.step(action)
        self._elapsed += 1
        truncated = not terminated and self._elapsed >= self._limit
        return np.asarray(observation, dtype=np.float64), float(reward), terminated, truncated

    def state_dict(self) -> dict[str, Any]:
        """All that decides what comes next, between two episodes or within one."""
        return {
            "physics": torch.from_numpy(self._physics().copy()),
            "elapsed": self._elapsed,
            "random": json.dumps(self._made.np_random.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.reset()  # an environment that was never reset refuses to step
        self._elapsed = state["elapsed"]
        self._made.np_random.bit_generator.state = json.loads(state["random"])
        physics = state["physics"].numpy()
        if self._of_mujoco:
            mujoco = _mujoco()
            whole = mujoco.mjtState.mjSTATE_INTEGRATION
            mujoco.mj_setState(self._made.model, self._made.data, physics, whole)
        else:
            self._made.state = physics.copy()

    def _physics(self) -> Numbers:
        if not self._of_mujoco:
            return np.asarray(self._made.state, dtype=np.float64)
        mujoco, model = _mujoco(), self._made.model
        # All that MuJoCo's next step depends on, warm starts included.
        whole = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(model, whole), dtype=np.float64)
        mujoco.mj_getState(model, self._made.data, state, whole)
        return state


def _mujoco() -> Any:
    """MuJoCo, which has no types; CartPole does without."""
    return importlib.import_module("mujoco")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MuJoCo warns of what it finds outdated in gymnasium's own files: for the log at most."""
    mujoco = _mujoco()
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda told: LOG.debug("%s", told))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


class Environments:
    """N copies of one environment, each begun anew where it ends.

    Attributes:
        observations: [N, D], what the next actions are for.
    """

    def __init__(self, name: str, seeds: Sequence[int]) -> None:
        self._all = [Environment(name) for _ in seeds]
        self.observation_space = self._all[0].observation_space
        self.action_space = self._all[0].action_space
        pairs = zip(self._all, seeds, strict=True)
        self.observations: Numbers = np.stack([one.reset(seed) for one, seed in pairs])

    def step(self, actions: Sequence[Any]) -> Steps:
        """One action for each."""
        stepped = [one.step(action) for one, action in zip(self._all, actions, strict=True)]
        successors, rewards, terminated, truncated = zip(*stepped, strict=True)
        steps = Steps(
            np.array(rewards), np.array(terminated), np.array(truncated), np.stack(successors)
        )
        self.observations = steps.successors.copy()
        for place in np.flatnonzero(steps.terminated | steps.truncated):
            self.observations[place] = self._all[place].reset()
        return steps

    def state_dict(self) -> dict[str, Any]:
        """What continues every copy."""
        return {
            "observations": torch.from_numpy(self.observations.copy()),
            "each": [one.state_dict() for one in self._all],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.observations = state["observations"].numpy().copy()
        for one, kept in zip(self._all, state["each"], strict=True):
            one.load_state_dict(kept)
