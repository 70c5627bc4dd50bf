"""Shared fixtures: tiny runs of the real thing, in a folder of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

SESSION = "SPAM_LAB_TEST_SESSION"
"""Marks the processes that one test session starts: others may test on this machine too."""
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
for name in ("SPAM_LAB_RUNS", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)

pytest_plugins = ["tests.slurm_fixtures"]

ROOT = Path(__file__).resolve().parents[1]

# How long an example takes says more of the machine's load than of the code.
hypothesis.settings.register_profile("lab", deadline=None)
hypothesis.settings.load_profile("lab")


def pytest_configure() -> None:
    """Every process that runs tests, one of several or not, knows what it started itself."""
    os.environ[SESSION] = str(os.getpid())


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tokenized corpus for all tests of a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of a module's tests, for what is kept beside runs."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("own")
        patch.chdir(folder)
        yield folder


def tiny_run(runs: Path, cache: Path) -> list[str]:
    """Overrides of a run of 24 steps that has resets, spikes and sparse masks."""
    return [
        "optimizer=spam_sparse",
        "schedule.steps=24",
        "schedule.warmup_steps=2",
        "optimizer.delta_t=7",
        "optimizer.warmup_steps=3",
        "optimizer.grace_steps=2",
        "optimizer.theta=50",
        "evaluation.every=8",
        "evaluation.tokens=512",
        "train.checkpoint_every=5",
        "train.kept_when_done=whole",
        "train.log_every=3",
        f"paths.runs={runs}",
        f"paths.cache={cache}",
    ]


@pytest.fixture
def tiny(tmp_path: Path, cache: Path) -> list[str]:
    """The overrides of `tiny_run` in a folder of the test's own."""
    return tiny_run(tmp_path / "runs", cache)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder with one finished tiny run, made by the real command line."""
    from tests.processes import run_launch

    runs = tmp_path_factory.mktemp("trained") / "runs"
    code, output = run_launch(tiny_run(runs, cache))
    assert code == 0, output
    return runs


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of `trained_once` that a test may spoil; where `tiny` looks for it."""
    runs = tmp_path / "runs"
    shutil.copytree(trained_once, runs, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
    return runs
