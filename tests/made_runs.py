"""Run directories made by hand through `RunDirectory`: in any condition, in a moment, untrained."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from spam_lab.config.compose import compose_run
from spam_lab.config.schema import SCHEMA_VERSION
from spam_lab.files import write_json
from spam_lab.orchestrate.slurm.ledger import ArrayRecord, Submission
from spam_lab.orchestrate.slurm.place import Place
from spam_lab.record.metrics import MetricWriter
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, SweepManifest


@cache
def _config() -> str:
    return json.dumps(dataclasses.asdict(compose_run([])))


def make_run(
    root: Path, run_id: str, *states: str, theta: float = 5000.0, seed: int = 0, **changes: Any
) -> RunDirectory:
    """A run that went through `states`; `changes` are set in the last of them.

    The states before `running` are gone through by themselves.
    """
    config = json.loads(_config())
    config["optimizer"]["theta"], config["seed"] = theta, seed
    directory = RunDirectory(root, run_id)
    directory.create("cell", SCHEMA_VERSION, config)
    directory.move(State.SUBMITTED, steps=480)
    where = {name: changes[name] for name in ("host", "job", "pid") if name in changes}
    for number, state in enumerate(states):
        if number == 0 and state not in ("running", "submitted"):
            directory.move(State.RUNNING, attempt=1, **where)
        own = changes if number == len(states) - 1 else where
        directory.move(State(state), **({"attempt": 1} if state == "running" else {}), **own)
    return directory


def beat(directory: RunDirectory, age: float = 0.0, host: str = "elsewhere", pid: int = 1) -> None:
    """A lease whose holder was last heard of `age` seconds ago; of this process where told so."""
    if host == "here":
        host, pid = Place.here().host, os.getpid()
    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        started = 0.0
    content = {"host": host, "boot": psutil.boot_time(), "pid": pid, "started": started}
    write_json(directory.lease_path, {**content, "token": "made by hand"})
    then = time.time() - age
    os.utime(directory.lease_path, (then, then))


def sweep_of(root: Path, *run_ids: str, name: str = "figure9", scale: str = "nano") -> None:
    """The manifest of a sweep of these runs."""
    overrides = [f"sweep={name}", "schedule.steps=480", f"paths.runs={root}", "dry_run=false"]
    SweepManifest(name, scale, list(run_ids), overrides).write(root)


def losses(directory: RunDirectory, *values: float) -> None:
    """A metric log with these training losses."""
    writer = MetricWriter(directory.metrics_path)
    for step, value in enumerate(values, 1):
        writer.add(step, {"train/loss": value, "train/grad_norm": 1.0})
    writer.flush()


def submitted(root: Path, *shares: tuple[str, list[str]]) -> Submission:
    """The ledger's record of jobs of one array: (job id, its runs) each."""
    submission = Submission.new(root, "figure9", "nano")
    run_ids = [run_id for _, share in shares for run_id in share]
    bounds = [0]
    for _, share in shares:
        bounds.append(bounds[-1] + len(share))
    jobs = [job_id for job_id, _ in shares]
    submission.arrays.append(ArrayRecord("by-hand", run_ids, bounds, len(jobs), jobs))
    submission.write()
    submission.jobs_folder.mkdir()
    return submission


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Every path under a folder, with what it holds and when it was written."""
    found: dict[str, bytes | None] = {}
    for path in sorted(root.rglob("*")):
        key = f"{path.relative_to(root)} {path.stat().st_mtime_ns}"
        found[key] = path.read_bytes() if path.is_file() else None
    return found
