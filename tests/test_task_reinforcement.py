"""PPO as a task: advantages and losses against other derivations, environments put back bit for
bit, runs that go on in the middle of a rollout, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch import nn

from spam_lab.config.compose import compose_run, from_dict
from spam_lab.config.fields import ConfigError
from spam_lab.data.errors import DataError
from spam_lab.orchestrate.calibrate import calibrate
from spam_lab.tasks.registry import open_task, require_ready
from spam_lab.tasks.reinforcement import CART_POLE, ReinforcementConfig
from spam_lab.tasks.reinforcement.environments import Environment, Environments
from spam_lab.tasks.reinforcement.policies import Continuous, Discrete
from spam_lab.tasks.reinforcement.ppo import NOBODY, Episodes, Reinforcement, ppo_loss
from spam_lab.tasks.reinforcement.rollouts import Transitions, advantages_of, collect
from spam_lab.tasks.reinforcement.scaling import Moments, Scaling
from spam_lab.train import checkpoint
from spam_lab.train.loop import Training
from tests.test_train_loop import Listed
from tests.test_train_resume import assert_same

SMALL = ["task.horizon=16", "task.environments=2", "task.batch_size=8", "task.epochs=3"]
SMALL += ["task.episodes=2", "schedule.steps=20", "evaluation.every=10"]


def overrides(environment: str, method: str = "spam") -> list[str]:
    spam = ["optimizer.delta_t=7", "optimizer.warmup_steps=3", "optimizer.grace_steps=2"]
    own = spam if method == "spam" else []
    return [f"task=reinforcement_{environment}", f"optimizer={method}", *SMALL, *own]


@settings(max_examples=30)
@given(
    st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 3), st.floats(0, 1), st.floats(0, 1)
)
def test_advantages_are_the_sums_that_define_them(
    seed: int, steps: int, copies: int, discount: float, trace: float
) -> None:
    random = np.random.default_rng(seed)
    rewards, values, successors = random.normal(size=(3, steps, copies))
    terminated = random.random((steps, copies)) < 0.2
    ended = terminated | (random.random((steps, copies)) < 0.2)
    found = advantages_of(rewards, values, successors, terminated, ended, discount, trace)
    for copy in range(copies):
        for start in range(steps):
            total, weight = 0.0, 1.0
            for step in range(start, steps):
                after = 0.0 if terminated[step, copy] else float(successors[step, copy])
                gained = float(rewards[step, copy]) + discount * after - float(values[step, copy])
                total += weight * gained
                weight *= discount * trace
                if ended[step, copy]:
                    break
            assert found[start, copy] == pytest.approx(total, abs=1e-9)


class Constant(nn.Module):
    """An actor without preferences and a critic that always says the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = len(observations)
        return torch.zeros(rows, 2), self.value.expand(rows)


def test_an_episode_that_the_time_limit_cuts_off_goes_on_in_the_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environments = Environments(CART_POLE, [0, 1])
    for one in environments._all:
        monkeypatch.setattr(one, "_limit", 3)
    noise = Discrete(2).draw(np.random.RandomState(0), (6, 2))
    found = collect(
        Constant(7.0),
        Discrete(2),
        environments,
        Scaling(False, 2, 4, 0.5),
        noise,
        discount=0.5,
        trace=1.0,
    )
    # A reward of 1 a step; after the third, half of the critic's 7. No pole falls in 3 steps.
    expected = [1 + 0.5 * (1 + 0.5 * (1 + 3.5)), 1 + 0.5 * (1 + 3.5), 1 + 3.5] * 2
    assert found.returns.reshape(6, 2)[:, 0].tolist() == pytest.approx(expected)


def losses_by_hand(
    kind: str, policy: Any, values: Any, batch: dict[str, Any], config: ReinforcementConfig
) -> float:
    """PPO's loss from SciPy's distributions, one transition after another."""
    total = 0.0
    for row in range(len(values)):
        if kind == "discrete":
            chances = special.softmax(policy[row])
            log_probability = math.log(chances[batch["actions"][row]])
            entropy = stats.entropy(chances)
        else:
            mean, log_deviation = np.split(policy[row], 2)
            normal = stats.norm(mean, np.exp(log_deviation))
            log_probability = normal.logpdf(batch["actions"][row]).sum()
            entropy = normal.entropy().sum()
        ratio, advantage = (
            math.exp(log_probability - batch["before"][row]),
            batch["advantages"][row],
        )
        low, high = 1 - config.clip_ratio, 1 + config.clip_ratio
        gain = min(ratio * advantage, min(max(ratio, low), high) * advantage)
        was, target = batch["values"][row], batch["returns"][row]
        near = min(max(values[row], was - config.clip_ratio), was + config.clip_ratio)
        error = max((values[row] - target) ** 2, (near - target) ** 2)
        loss = -gain + config.value_weight * 0.5 * error - config.entropy_weight * entropy
        total += batch["counted"][row] * loss
    return total


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_the_loss_and_its_gradients_are_those_derived_by_hand(kind: str) -> None:
    random, rows = np.random.default_rng(5), 12
    config = ReinforcementConfig(environment=CART_POLE, entropy_weight=0.03)
    policies: Any = Discrete(4) if kind == "discrete" else Continuous(-np.ones(2), np.ones(2))
    policy, values = random.normal(size=(rows, 4)), random.normal(size=rows)
    actions = random.integers(4, size=rows) if kind == "discrete" else random.normal(size=(rows, 2))
    now = policies.log_probability(torch.tensor(policy), torch.tensor(actions)).numpy()
    batch = {
        "actions": actions,
        "before": now + random.normal(0, 0.3, rows),
        "values": values + random.normal(0, 0.3, rows),
        "advantages": random.normal(size=rows),
        "returns": random.normal(size=rows),
        "counted": (np.arange(rows) != 3).astype(float),
    }
    transitions = Transitions(
        torch.zeros(rows, 1),
        torch.tensor(actions),
        *(torch.tensor(batch[k]) for k in ("before", "values", "advantages", "returns", "counted")),
    )
    given_policy = torch.tensor(policy, requires_grad=True)
    given_values = torch.tensor(values, requires_grad=True)
    loss = ppo_loss(policies, given_policy, given_values, transitions, config)
    assert loss.item() == pytest.approx(losses_by_hand(kind, policy, values, batch, config))
    loss.backward()
    whole = np.concatenate([policy.ravel(), values])

    def by_hand(numbers: np.ndarray) -> float:
        split = numbers[: policy.size].reshape(policy.shape), numbers[policy.size :]
        return losses_by_hand(kind, *split, batch, config)

    assert given_policy.grad is not None and given_values.grad is not None
    found = torch.cat([given_policy.grad.flatten(), given_values.grad]).numpy()
    unit = 1e-6 * np.eye(len(whole))
    slopes = [(by_hand(whole + step) - by_hand(whole - step)) / 2e-6 for step in unit]
    assert found == pytest.approx(np.array(slopes), rel=1e-6, abs=1e-6)
    assert (found[policy.size + 3], given_policy.grad[3].abs().sum()) == (0, 0)


def test_policies_sample_what_they_say() -> None:
    random = np.random.RandomState(0)
    logits = torch.tensor([0.3, -1.0, 1.2])
    discrete = Discrete(3)
    noise = discrete.draw(random, (20_000,))
    sampled = discrete.sample(logits.expand(20_000, 3), noise)
    shares = torch.bincount(sampled, minlength=3) / 20_000
    assert shares.tolist() == pytest.approx(logits.softmax(0).tolist(), abs=0.015)
    policy = torch.tensor([[0.5, -2.0, 0.0, math.log(3.0)]])
    continuous = Continuous(-np.ones(2, np.float32), np.ones(2, np.float32))
    actions = continuous.sample(policy, continuous.draw(random, (20_000,)))
    assert actions.mean(dim=0).tolist() == pytest.approx([0.5, -2.0], abs=0.08)
    assert actions.std(dim=0).tolist() == pytest.approx([1.0, 3.0], abs=0.08)
    assert np.abs(continuous.executed(actions)).max() == 1
    assert continuous.executed(torch.full((1, 2), math.nan)).tolist() == [[0, 0]]


def test_running_moments_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(1).normal(3, 5, (50, 4))
    moments = Moments(4)
    assert moments.deviation.tolist() == [1.0] * 4
    for part in np.split(rows, [1, 5, 30]):
        moments.add(part)
    assert moments.mean == pytest.approx(rows.mean(axis=0))
    assert moments.deviation == pytest.approx(rows.std(axis=0))


@pytest.mark.parametrize("name", [CART_POLE, "Hopper-v5", "HalfCheetah-v5"])
def test_environments_put_back_go_on_bit_for_bit(name: str) -> None:
    """Through ends of episodes and the random starts after them, with MuJoCo's warm starts."""
    environments = Environments(name, [3, 4])
    environments.action_space.seed(0)
    actions = [[environments.action_space.sample() for _ in range(2)] for _ in range(90)]

    def play(played: Environments, first: int, last: int) -> list[Any]:
        kept: list[Any] = []
        for action in actions[first:last]:
            steps = played.step(action)
            kept += [played.observations.copy(), *vars(steps).values()]
        return kept

    play(environments, 0, 37)
    state = environments.state_dict()
    expected = play(environments, 37, 90)
    other = Environments(name, [8, 9])
    play(other, 0, 5)
    other.load_state_dict(state)
    found = play(other, 37, 90)
    assert all(np.array_equal(one, two) for one, two in zip(expected, found, strict=True))
    if name != "HalfCheetah-v5":  # whose episodes end by time alone
        assert any(flags.any() for flags in expected if flags.dtype == bool)


def test_a_seed_begins_an_episode_whatever_came_before() -> None:
    one, other = Environment("Hopper-v5"), Environment("Hopper-v5")
    other.reset(1)
    other.step(np.ones(3, np.float32))
    assert np.array_equal(one.reset(5), other.reset(5))
    stepped = [played.step(np.full(3, 0.3, np.float32)) for played in (one, other)]
    assert np.array_equal(stepped[0][0], stepped[1][0]) and stepped[0][1:] == stepped[1][1:]


def train(
    config: list[str], folder: Path, stop: int | None = None
) -> tuple[Listed, dict[str, Any]]:
    """Train in `folder`, to the end or to a stop: metrics without times, and the checkpoint."""
    torch.set_num_threads(1)
    journal = Listed()
    training = Training(
        compose_run(config), folder, journal, should_stop=lambda: training.step == stop
    )
    training.run()
    newest = checkpoint.load_newest(folder)
    assert newest is not None
    clocked = ("_per_second", "_seconds")
    for values in journal.values.values():
        for name in [name for name in values if name.endswith(clocked)]:
            del values[name]
    return journal, newest[1]


@pytest.mark.parametrize("environment", ["cartpole", "hopper"])
def test_a_run_goes_on_in_the_middle_of_a_rollout_bit_for_bit(
    environment: str, tmp_path: Path
) -> None:
    config = overrides(environment)
    whole, expected = train(config, tmp_path / "whole")
    first, state = train(config, tmp_path / "parts", stop=15)
    assert (state["data"]["number"], state["data"]["used"]) == (2, 3), "a rollout lasts 12 steps"
    rest, found = train(config, tmp_path / "parts")
    assert_same(found, expected)
    assert {**first.values, **rest.values} == whole.values
    assert whole.values[20]["spam/resets"] == 2 and whole.values[20]["validation/return"] > 0


def test_a_checkpoint_of_another_environment_is_refused() -> None:
    one = open_task(compose_run(overrides("cartpole")), "cpu")
    other = open_task(compose_run([*overrides("cartpole"), "task.environments=1"]), "cpu")
    with pytest.raises(DataError, match="is of 2 x CartPole-v1, not 1 x CartPole-v1"):
        other.load_state_dict(one.state_dict())


def test_methods_are_paired_and_data_seeds_differ() -> None:
    def first(method: str, *more: str) -> Any:
        task: Any = open_task(compose_run([*overrides("cartpole", method), *more]), "cpu")
        return task, task.next_batch()

    adam, one = first("adam")
    spam, two = first("spam")
    assert_same(vars(one), vars(two))
    assert_same(adam.model.state_dict(), spam.model.state_dict())
    other, three = first("adam", "data_seed=1")
    assert_same(adam.model.state_dict(), other.model.state_dict())
    assert not torch.equal(one.observations, three.observations)
    assert one.advantages.mean().item() == pytest.approx(0, abs=1e-6)
    assert one.advantages.std().item() == pytest.approx(1, abs=1e-5)


def test_every_epoch_goes_through_the_whole_rollout() -> None:
    task: Any = open_task(compose_run(overrides("cartpole")), "cpu")
    epochs = []
    for _ in range(3):
        rows = torch.cat([task.next_batch().observations for _ in range(4)])
        epochs.append(rows)
    ordered = [sorted(map(tuple, rows.tolist())) for rows in epochs]
    assert ordered[0] == ordered[1] == ordered[2]
    assert not torch.equal(epochs[0], epochs[1])
    following = torch.cat([task.next_batch().observations for _ in range(4)])
    assert sorted(map(tuple, following.tolist())) != ordered[0]


def test_parts_and_shares_of_a_batch_add_up_to_it() -> None:
    config = compose_run(overrides("cartpole"))
    task: Any = open_task(config, "cpu")
    batch = task.next_batch()
    whole = task.loss(task.model, batch).item()
    for parts in (batch.split(3), [batch.share(rank, 3) for rank in range(3)]):
        assert sum(part.weight for part in parts) == batch.weight == 8
        assert sum(task.loss(task.model, part).item() for part in parts) == pytest.approx(whole)
    assert {len(batch.share(rank, 3).counted) for rank in range(3)} == {3}
    shares = [task.validation[0].share(rank, 3) for rank in range(3)]
    assert [share.weight for share in shares] == [1, 1, 0]
    task.model.eval()
    with torch.no_grad():
        totals = sum(task.score(task.model, share) for share in shares)
        assert_same(totals, task.score(task.model, task.validation[0]))
    assert Episodes(torch.tensor([NOBODY])).weight == 0


def test_a_policy_that_is_no_number_ends_the_run_as_diverged(tmp_path: Path) -> None:
    config = [*overrides("hopper", "adam"), "optimizer.lr=1e30"]
    outcome = Training(compose_run(config), tmp_path, Listed()).run()
    assert outcome.state == "diverged"
    task: Any = open_task(compose_run(overrides("hopper")), "cpu")
    nn.init.constant_(task.model.actor[0].bias, math.nan)
    with torch.no_grad():
        values = task.summary(task.score(task.model, task.validation[0]).tolist())
    assert math.isnan(values["validation/return"])


def test_it_learns_to_balance_a_pole(tmp_path: Path) -> None:
    """From a policy that lets it fall: 9 steps is as fast as it can."""
    config = ["task=reinforcement_cartpole", "optimizer=adam", "seed=1", "schedule.steps=128"]
    task: Any = open_task(compose_run(config), "cpu")
    with torch.no_grad():
        untrained = task.summary(task.score(task.model, task.validation[0]).tolist())
    assert untrained["validation/return"] < 15
    journal = Listed()
    Training(compose_run([*config, "evaluation.every=128"]), tmp_path, journal).run()
    assert journal.values[128]["validation/return"] > 45


def test_what_is_not_installed_is_named_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = compose_run(["task=reinforcement_hopper", "optimizer=adam"])
    require_ready([config])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    needed = r"needs what is not installed \(gymnasium, mujoco\): pip install 'spam_lab\[tasks\]'"
    with pytest.raises(ConfigError, match=needed):
        require_ready([config])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "task.environment=Hoper-v5",
            "task.environment='?Hoper-v5'? is not allowed: one of Hopper",
        ),
        ("task.environment=Pendulum-v1", "task.environment='?Pendulum-v1'? is not allowed"),
        ("train.sharding=fsdp", "auto or ddp"),
    ],
)
def test_what_cannot_be_resumed_or_sharded_is_refused(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        require_ready([compose_run(["task=reinforcement_hopper", "optimizer=adam", override])])


def test_a_rollout_divides_into_minibatches() -> None:
    with pytest.raises(ConfigError, match=r"a divisor of .* = 512, and at least 2"):
        compose_run(["task=reinforcement_cartpole", "task.batch_size=100"])


def test_its_config_is_read_back() -> None:
    config = compose_run(overrides("hopper"))
    assert from_dict(dataclasses.asdict(config)) == config


def test_the_plan_counts_rollouts_in_what_a_step_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """CartPole's rollouts of 4 x 128 make 4 epochs of 4 minibatches: one in 16 steps is slow."""
    collect = Reinforcement._collect

    def slow(self: Reinforcement) -> None:
        time.sleep(0.8)
        collect(self)

    monkeypatch.setattr(Reinforcement, "_collect", slow)
    assert 0.05 < calibrate(compose_run(["task=reinforcement_cartpole"])) < 0.8
