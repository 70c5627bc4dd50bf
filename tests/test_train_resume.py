"""A run killed with SIGKILL at any instant and started again ends bit for bit as one never killed.

Real processes, real kills: the worker's entry trains a run with sparse masks, resets, re-warming
and spikes; it is killed at set instants (while writing a checkpoint included) and at random ones.
"""

from __future__ import annotations

import dataclasses
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from spam_lab.config.compose import compose_run
from spam_lab.config.schema import RunConfig
from spam_lab.orchestrate.expand import request_of
from spam_lab.orchestrate.plan import make_plan
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.worker import Order
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory
from spam_lab.train import checkpoint
from tests.conftest import ROOT
from tests.processes import steps_logged, wait_for

CLOCKED = ("train/tokens_per_second", "train/step_seconds", "train/optimizer_seconds")
"""Metrics that measure time, and so differ between any two runs."""


def prepare(overrides: list[str], root: Path) -> tuple[RunDirectory, list[str]]:
    """A run directory under `root` and the command of a worker that trains it."""
    config = compose_run([*overrides, f"paths.runs={root}"])
    plan = make_plan([request_of(config)], root)
    plan.write([])
    order = root / "order.json"
    Order(root, (plan.entries[0].run_id,), host_of(config)).write(order)
    command = [sys.executable, "-m", "spam_lab.orchestrate.worker", str(order)]
    return plan.directory(plan.entries[0]), command


def host_of(config: RunConfig) -> Host:
    return Host(config.train, config.cluster, config.paths)


def finish(command: list[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)


def result(directory: RunDirectory) -> tuple[dict[str, object], list[object]]:
    """The final checkpoint and all metrics that do not measure time."""
    newest = checkpoint.load_newest(directory.checkpoints_path)
    assert newest is not None
    metrics = [
        (line.step, {k: v for k, v in line.values.items() if k not in CLOCKED})
        for line in directory.metrics()
    ]
    return {"step": newest[0], **newest[1]}, metrics


def assert_same(one: object, other: object, at: str = "") -> None:
    """Equal down to the bits of every tensor."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor) and one.dtype == other.dtype, at
        assert torch.equal(
            one.reshape(-1).view(torch.uint8) if one.numel() else one,
            other.reshape(-1).view(torch.uint8) if other.numel() else other,
        ), at
    elif isinstance(one, dict):
        assert isinstance(other, dict) and one.keys() == other.keys(), at
        for key in one:
            assert_same(one[key], other[key], f"{at}.{key}")
    elif isinstance(one, list | tuple):
        assert isinstance(other, list | tuple) and len(one) == len(other), at
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{at}[{index}]")
    else:
        assert one == other, at


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> tuple[dict[str, object], list[object]]:
    directory, command = prepare(overrides(cache), tmp_path_factory.mktemp("unbroken"))
    finish(command)
    assert directory.status().state is State.DONE
    return result(directory)


def overrides(cache: Path) -> list[str]:
    return [
        "optimizer=spam_sparse",
        "schedule.steps=60",
        "optimizer.delta_t=13",
        "optimizer.warmup_steps=5",
        "optimizer.grace_steps=2",
        "optimizer.theta=50",
        "evaluation.every=20",
        "evaluation.tokens=512",
        "train.checkpoint_every=7",
        "train.log_every=2",
        "train.kept_when_done=whole",
        f"paths.cache={cache}",
    ]


def kill_when(command: list[str], condition, root: Path) -> None:  # type: ignore[no-untyped-def]
    worker = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: condition() or worker.poll() is not None)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()


def test_the_run_has_what_could_go_wrong(unbroken: tuple[dict[str, object], list[object]]) -> None:
    """Otherwise the tests below would prove little."""
    _, metrics = unbroken
    last = metrics[-1][1]  # type: ignore[index]
    assert last["spam/resets"] >= 4
    assert last["spam/clipped_total"] > 100


@pytest.mark.parametrize("instant", ["before the first checkpoint", "mid-interval", "last step"])
def test_killed_at_set_instants(
    instant: str,
    unbroken: tuple[dict[str, object], list[object]],
    tmp_path: Path,
    cache: Path,
) -> None:
    directory, command = prepare(overrides(cache), tmp_path)
    lines = {"before the first checkpoint": 3, "mid-interval": 31, "last step": 59}[instant]
    kill_when(command, lambda: steps_logged(directory.path) >= lines, tmp_path)
    finish(command)
    assert directory.status().state is State.DONE
    assert_same(result(directory), unbroken)


def test_killed_again_and_again_at_random(
    unbroken: tuple[dict[str, object], list[object]], tmp_path: Path, cache: Path
) -> None:
    directory, command = prepare(overrides(cache), tmp_path)
    draw = random.Random(20261122)
    for _ in range(4):
        start = steps_logged(directory.path)
        target = start + draw.randint(1, 12)
        pause = draw.random() * 0.1

        def reached(target: int = target, pause: float = pause) -> bool:
            if steps_logged(directory.path) < target:
                return False
            time.sleep(pause)
            return True

        kill_when(command, reached, tmp_path)
    finish(command)
    assert_same(result(directory), unbroken)
    assert directory.status().attempt >= 2


def test_killed_while_writing_a_checkpoint(
    unbroken: tuple[dict[str, object], list[object]], tmp_path: Path, cache: Path
) -> None:
    """The kill falls between the tensor file and its seal, or into the tensor file itself."""
    directory, command = prepare(overrides(cache), tmp_path)

    def writing() -> bool:
        names = (
            [p.name for p in directory.checkpoints_path.glob("*")]
            if (directory.checkpoints_path.exists())
            else []
        )
        sealed = {n.removesuffix(".json") for n in names if n.endswith(".json")}
        tensors = {n.removesuffix(".pt") for n in names if n.endswith(".pt")}
        return any(n.endswith(".part") for n in names) or bool(tensors - sealed)

    kill_when(command, writing, tmp_path)
    finish(command)
    assert_same(result(directory), unbroken)
    left = [
        p.name for p in directory.checkpoints_path.iterdir() if p.suffix not in (".pt", ".json")
    ]
    assert left == [], "half-written files stay behind"


def test_stopped_by_a_signal_goes_on(
    unbroken: tuple[dict[str, object], list[object]], tmp_path: Path, cache: Path
) -> None:
    directory, command = prepare(overrides(cache), tmp_path)
    worker = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(lambda: steps_logged(directory.path) >= 11)
    worker.send_signal(signal.SIGUSR2)
    assert worker.wait(timeout=30) == 0
    status = directory.status()
    assert status.state is State.PREEMPTED
    assert 0 < status.checkpoint_step == status.step < 60
    assert "goes on from there" in status.reason
    finish(command)
    assert_same(result(directory), unbroken)


def test_a_corrupt_checkpoint_falls_back_to_the_one_before(
    unbroken: tuple[dict[str, object], list[object]], tmp_path: Path, cache: Path
) -> None:
    directory, command = prepare(overrides(cache), tmp_path)
    kill_when(command, lambda: steps_logged(directory.path) >= 31, tmp_path)
    newest = (
        directory.checkpoints_path
        / f"step_{checkpoint.steps(directory.checkpoints_path)[-1]:09d}.pt"
    )
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    finish(command)
    assert_same(result(directory), unbroken)
    assert f"checkpoint {newest} is damaged" in directory.log_path.read_text()


def test_other_threads_or_logging_do_not_change_the_run(cache: Path) -> None:
    """What is excluded from the identity may differ between the attempts of one run."""
    one = compose_run([*overrides(cache), "train.log_every=7", "train.checkpoint_every=11"])
    other = compose_run(overrides(cache))
    assert request_of(one).run_id == request_of(other).run_id
    assert dataclasses.asdict(one) != dataclasses.asdict(other)
