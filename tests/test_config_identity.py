"""What a run_id depends on: every key that determines numbers, and none that does not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spam_lab.config.compose import compose_run
from spam_lab.config.fields import walk
from spam_lab.config.identity import EXCLUDED, SEEDS, canonical, cell_id, differences, run_id
from spam_lab.config.schema import RunConfig, TaskConfig
from spam_lab.orchestrate.cost import shape_of
from tests.conftest import ROOT

DEFAULT = compose_run([])


@pytest.mark.parametrize("text", ["5000", "5000.0", "5e3", "5.0E+3", "+5000"])
def test_one_number_is_one_run(text: str) -> None:
    assert run_id(compose_run([f"optimizer.theta={text}"])) == run_id(compose_run([]))


def test_stabilizers_are_one_run_however_they_were_combined() -> None:
    one = compose_run(["stabilizer=embed_ln", "stabilizer.embed_detach=0.1"])
    other = compose_run(["stabilizer=embed_detach", "stabilizer.embed_norm=layer_norm"])
    assert run_id(one) == run_id(other) != run_id(compose_run(["stabilizer=embed_ln"]))


def _perturbed(config: RunConfig, key: str, value: object) -> RunConfig:
    """A copy with another value at `key`; the value need not make sense."""
    *parents, last = key.split(".")
    nodes = [config]
    for name in parents:
        nodes.append(getattr(nodes[-1], name))
    other: object
    if isinstance(value, bool):
        other = not value
    elif isinstance(value, int | float):
        other = value + 1
    elif isinstance(value, dict):
        other = {**value, "new": 1}
    else:
        other = f"{value}x"
    changed = dataclasses.replace(nodes.pop(), **{last: other})
    for name, node in zip(reversed(parents), reversed(nodes), strict=True):
        changed = dataclasses.replace(node, **{name: changed})
    return changed


LEAVES = [
    (name, key, value)
    for name in ("spam", "adam")
    for key, _, value in walk(compose_run([f"optimizer={name}"]))
]


@pytest.mark.parametrize(("optimizer", "key", "value"), LEAVES)
def test_each_key_counts_unless_it_is_excluded(optimizer: str, key: str, value: object) -> None:
    config = compose_run([f"optimizer={optimizer}"])
    other = _perturbed(config, key, value)
    # Pre-training is refused a batch size of its own: data.batch_size is it.
    unread = ("task.batch_size",)
    excluded = any(key == name or key.startswith(f"{name}.") for name in (*EXCLUDED, *unread))
    assert (run_id(other) == run_id(config)) == excluded
    assert (cell_id(other) == cell_id(config)) == (excluded or key in SEEDS)


def test_another_task_leaves_the_groups_of_pretraining_unread() -> None:
    config = compose_run([])
    task = TaskConfig(name="other", batch_size=8)
    one = dataclasses.replace(config, task=task)
    other = dataclasses.replace(compose_run(["model=llama_1b", "stabilizer=embed_ln"]), task=task)
    other = dataclasses.replace(other, schedule=one.schedule, optimizer=one.optimizer)
    assert run_id(config) != run_id(one) == run_id(other)
    larger = dataclasses.replace(one, task=dataclasses.replace(task, batch_size=9))
    assert run_id(larger) != run_id(one)


@given(
    weight=st.none() | st.integers(2, 16),
    activation=st.none() | st.integers(2, 16),
    seed=st.integers(0, 5),
)
def test_what_is_younger_than_recorded_runs_counts_where_it_is_set(
    weight: int | None, activation: int | None, seed: int
) -> None:
    """A run from before there were bits is one without; any number of them is another run."""
    config = dataclasses.replace(DEFAULT, seed=seed)
    bits = {"weight_bits": weight, "activation_bits": activation}
    few = dataclasses.replace(config, precision=dataclasses.replace(config.precision, **bits))
    stored = dataclasses.asdict(config)
    for key in bits:
        del stored["precision"][key]
    assert canonical(stored) == canonical(dataclasses.asdict(config))
    same = weight is None and activation is None
    assert (canonical(dataclasses.asdict(few)) == canonical(stored)) == same
    assert (shape_of(dataclasses.asdict(few)) == shape_of(stored)) == same
    assert run_id(few) != run_id(dataclasses.replace(few, seed=seed + 1))


def test_an_id_is_the_same_in_another_process() -> None:
    code = (
        "from spam_lab.config.compose import compose_run\n"
        "from spam_lab.config.identity import run_id\n"
        "print(run_id(compose_run(['seed=3', 'optimizer.theta=1e3'])))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "7", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stdout.strip() == run_id(compose_run(["optimizer.theta=1000", "seed=3"]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1: 2}, b"x"])
def test_what_has_no_stable_text_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical({"key": value})


def test_differences_name_keys_and_values() -> None:
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}) == ["a.b: 1 -> 3"]
