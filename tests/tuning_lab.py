"""Studies for tests: definitions over few and cheap runs, a part in one without a worker process,
and a copy of the project that has one more study in sweeps/."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from spam_lab.config.compose import compose_command
from spam_lab.config.schema import StudyConfig
from spam_lab.orchestrate.lease import Lease
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.search import Search, Study
from spam_lab.orchestrate.stop import StopRequest
from spam_lab.orchestrate.tune.ongoing import Ongoing, worker_lease
from spam_lab.orchestrate.tune.space import space_of
from spam_lab.orchestrate.tune.storage import StudyFolder, begin, open_study
from spam_lab.orchestrate.tune.worker import search
from tests.conftest import ROOT, SESSION

if TYPE_CHECKING:
    import optuna

SHORT = [
    *["schedule.steps=12", "schedule.warmup_steps=2", "evaluation.every=3"],
    *["evaluation.tokens=256", "train.checkpoint_every=2", "data.sequence_length=32"],
    "train.kept_when_done=whole",
]
"""A run of a fraction of a second, once torch is there."""

RATES = (0.001, 0.003)


def definition(*space: Search, **more: Any) -> Study:
    """A study of dense SPAM; without a space, over its threshold and its reset interval."""
    space = space or (
        Search("optimizer.theta", 10, 20000, log=True),
        Search("optimizer.delta_t", 5, 50, log=True),
    )
    fixed = {"model": "llama_60m", "optimizer": "spam"}
    return Study(**{"name": "tiny", "description": "?", "space": space, "fixed": fixed} | more)


def of_rates(*rates: float, **more: Any) -> Study:
    """A study whose points are these learning rates."""
    return definition(Search("optimizer.lr", choices=rates or RATES), **more)


def part(
    root: Path,
    study: Study,
    overrides: Sequence[str] = SHORT,
    pruner: optuna.pruners.BasePruner | None = None,
    worker: str = "one",
    **config: Any,
) -> Ongoing:
    """A part in a study under `root`, begun where it is not there; no worker process."""
    folder = StudyFolder(root, study.name, "nano")
    settings = StudyConfig(**{"name": study.name, "sampler": "random"} | config)
    space = space_of(study, overrides)
    begin(folder, study, space, list(overrides), settings)
    opened = open_study(folder, settings, pruner=pruner)
    return Ongoing(opened, folder, study, space, list(overrides), settings, worker)


def host(root: Path, cache: Path, overrides: Sequence[str] = SHORT) -> Host:
    """How runs are trained here."""
    command = compose_command([*overrides, f"paths.runs={root}", f"paths.cache={cache}"])
    return Host(command.train, command.cluster, command.paths)


def answer_all(ongoing: Ongoing, where: Host) -> list[optuna.trial.FrozenTrial]:
    """Do a worker's work in this process; the study's trials after it."""
    search(ongoing, where, StopRequest())
    return ongoing.study.get_trials(deepcopy=False)


@contextmanager
def present(ongoing: Ongoing) -> Iterator[None]:
    """A worker of this name is there while the block lasts."""
    lease = Lease(worker_lease(ongoing.folder, ongoing.worker))
    assert lease.acquire()
    with lease:
        yield


def copy_of_project(folder: Path, name: str, code: str) -> Path:
    """The project with one more study."""
    folder.mkdir()
    for part_ in ("spam_lab", "conf", "sweeps"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part_, folder / part_, ignore=ignored)
    shutil.copy(ROOT / "launch.py", folder)
    (folder / "sweeps" / f"{name}.py").write_text(code)
    return folder


@contextmanager
def launched_in(project: Path, overrides: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """`python launch.py` of a copy, in a session of its own; nothing is left of it afterwards."""
    process = subprocess.Popen(
        [sys.executable, "launch.py", *overrides],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        for pid in (process.pid, *worker_pids()):
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=30)


def launch_in(project: Path, overrides: Sequence[str], timeout: float = 240) -> tuple[int, str]:
    """Run a copy's command line to its end: exit code, and everything it printed."""
    with launched_in(project, overrides) as process:
        output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def worker_pids() -> list[int]:
    """The studies' workers of this test session."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if "spam_lab.orchestrate.tune.worker" in line and process.info["status"] != "zombie":
            try:
                if process.environ().get(SESSION) == os.environ[SESSION]:
                    found.append(process.pid)
            except psutil.Error:
                continue
    return found
