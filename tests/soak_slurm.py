"""The soak: hundreds of short runs on a real SLURM cluster whose nodes die at random, for minutes.

`make soak` runs it; the default tests do not. At the end the ledger is checked: every run is done,
exactly once, in one curve, with the weights that a few undisturbed ones have, and MLflow has each
once. SPAM_LAB_SOAK_RUNS and SPAM_LAB_SOAK_SECONDS make it longer.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, run_directories
from spam_lab.record.tracking import sync
from tests.conftest import tiny_run
from tests.processes import run_launch
from tests.slurm_cluster import Cluster
from tests.slurm_fixtures import need_slurm
from tests.slurm_lab import last_submission, submit
from tests.test_train_resume import assert_same, result

RUNS = int(os.environ.get("SPAM_LAB_SOAK_RUNS", "300"))
SECONDS = float(os.environ.get("SPAM_LAB_SOAK_SECONDS", "300"))
"""Nodes are killed for at least this long; rounds of runs are added until then."""

CHECKED = 5
"""Runs that are trained again, undisturbed, to compare."""


def done(root: Path) -> int:
    return sum(d.status().state is State.DONE for d in run_directories(root))


@pytest.mark.timeout(5400)
def test_every_run_is_done_exactly_once_while_nodes_die(tmp_path: Path, cache: Path) -> None:
    need_slurm()
    root = tmp_path / "runs"
    chance = random.Random(int(os.environ.get("SPAM_LAB_SOAK_SEED", "0")))
    runs = kills = 0
    start = time.monotonic()
    with (
        Cluster.start(nodes=3, accounting="shim") as cluster,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        while runs == 0 or time.monotonic() - start < SECONDS:
            seeds = f"seed=range({runs},{runs + RUNS})"
            grid = ["-m", *tiny_run(root, cache), seeds, "cluster.jobs=6", "cluster.gpus=1"]
            submit(grid)
            runs += RUNS
            kills += _disturb(cluster, root, runs, chance, grid)
        for name in cluster.settings.names:
            cluster.resume(name)
    print(f"\n{runs} runs, {kills} nodes killed, {time.monotonic() - start:.0f} s")
    _check_ledger(root, runs)
    _check_some(root, tmp_path / "undisturbed", cache, chance)
    sync(root, f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert sync(root, f"sqlite:///{tmp_path / 'mlflow.db'}").unchanged == runs
    assert kills > 0


def _disturb(
    cluster: Cluster, root: Path, runs: int, chance: random.Random, grid: list[str]
) -> int:
    """Kill a random node now and then, until the runs are done; how often."""
    kills, seen, since = 0, 0, time.monotonic()
    while (now := done(root)) < runs:
        if now > seen:
            seen, since = now, time.monotonic()
        assert time.monotonic() - since < 400, f"no run was finished for minutes: {now} of {runs}"
        name = chance.choice(cluster.settings.names)
        cluster.kill_node(name)
        kills += 1
        if chance.random() < 0.5:
            cluster.down(name)  # half of the time somebody notices before SLURM does
        time.sleep(chance.uniform(1, 5))
        cluster.start_node(name)
        time.sleep(chance.uniform(5, 20))
        if not cluster.run("squeue", "-h").strip() and done(root) < runs:
            submit(grid)  # a job that died before it could be requeued: what users would type
    return kills


def _check_ledger(root: Path, runs: int) -> None:
    directories = list(run_directories(root))
    assert len(directories) == runs
    assert {d.status().state for d in directories} == {State.DONE}
    for directory in directories:
        ends = Counter(line["state"] for line in directory.history())
        # The line follows the status: a worker killed between the two leaves none.
        assert ends["done"] <= 1, f"{directory.run_id} was done {ends['done']} times"
        assert ends["running"] == directory.status().attempt == len(directory.provenance())
        steps = [line.step for line in directory.metrics()]
        assert steps == list(range(1, directory.status().steps + 1))
    attempts = Counter(d.status().attempt for d in directories)
    print(f"attempts a run: {dict(sorted(attempts.items()))}")
    assert last_submission(root).arrays


def _check_some(root: Path, folder: Path, cache: Path, chance: random.Random) -> None:
    hit = [d for d in run_directories(root) if d.status().attempt > 1] or list(
        run_directories(root)
    )
    for directory in chance.sample(hit, min(CHECKED, len(hit))):
        seed = directory.config_file()["config"]["seed"]
        code, output = run_launch([*tiny_run(folder, cache), f"seed={seed}"])
        assert code == 0, output
        same = RunDirectory(folder, directory.run_id)
        assert_same(result(directory), result(same))
