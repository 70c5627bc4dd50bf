"""What happens to runs on a real SLURM cluster when something ends their job: each ends in the
right state, with the reason kept, is told truly, and goes on in one curve, bit for bit.

Real slurmctld, slurmd and munge; real signals, kills, requeues, preemptions and time limits. "Same"
is against a run of the same config that nothing happened to, trained on this computer.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from spam_lab.orchestrate.truth import Condition, slurm_jobs
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory
from tests.conftest import tiny_run
from tests.processes import run_launch, wait_for
from tests.slurm_cluster import Cluster
from tests.slurm_lab import (
    LONG,
    condition,
    drain,
    finish_now,
    job_ids,
    only_run,
    runs_of,
    states,
    submit,
    undrain,
    wait_for_state,
    wait_for_step,
)
from tests.test_train_resume import assert_same, result


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> tuple[dict[str, object], list[object]]:
    """Weights, optimizer and curve of the run that nothing happened to."""
    runs = tmp_path_factory.mktemp("unbroken") / "runs"
    code, output = run_launch([*tiny_run(runs, cache), *LONG])
    assert code == 0, output
    return result(only_run(runs))


def assert_unharmed(
    directory: RunDirectory, unbroken: tuple[dict[str, object], list[object]]
) -> None:
    """The run is done, and nothing tells it from one that was never touched."""
    assert directory.status().state is State.DONE
    assert_same(result(directory), unbroken)


def started(tiny: list[str], *more: str) -> tuple[RunDirectory, str]:
    """One submitted run that trains and has checkpoints, and its job."""
    submit([*tiny, *LONG, *more])
    directory = only_run(runs_of(tiny))
    wait_for_step(directory)
    (job,) = job_ids(runs_of(tiny))
    return directory, job


def worker_of(directory: RunDirectory) -> psutil.Process:
    return psutil.Process(directory.status().pid)


@contextlib.contextmanager
def held(worker: psutil.Process) -> Iterator[None]:
    """Hold the worker still, so that its run does not end before it is hit."""
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()


def test_the_announcement_of_the_end_stops_at_a_step_and_goes_on(
    slurm: Cluster, tiny: list[str], unbroken: tuple[dict[str, object], list[object]]
) -> None:
    """USR2, as SLURM sends it before a limit and many sites before a preemption."""
    directory, job = started(tiny)
    slurm.run("scancel", "--signal=USR2", job)
    wait_for_state(directory, State.PREEMPTED)
    status = directory.status()
    assert status.checkpoint_step == status.step > 0
    assert status.reason == f"asked to stop at step {status.step}; goes on from there"
    wait_for(lambda: condition(runs_of(tiny), directory.run_id) is Condition.QUEUED, 60)
    assert "in SLURM's queue" in submit([*tiny, *LONG])
    assert len(job_ids(runs_of(tiny))) == 1
    finish_now(slurm, directory, job)
    assert states(directory) == [
        *["submitted", "running", "preempted"],
        *["submitted", "running", "done"],
    ]
    assert [line["job"] for line in directory.history()][-1] == job
    assert_unharmed(directory, unbroken)


def test_a_time_limit_is_no_end(slurm: Cluster, tiny: list[str]) -> None:
    """The real limit of one minute: the run says that its time was up, and the job goes on."""
    more = ["schedule.steps=100000", "evaluation.every=100000", "cluster.time=1"]
    submit([*tiny, *LONG[1:2], *more, "cluster.signal_seconds=10", "cluster.partition=short"])
    directory = only_run(runs_of(tiny))
    wait_for_state(directory, State.TIMED_OUT, 120)
    status = directory.status()
    assert status.checkpoint_step == status.step > 0
    assert status.reason.startswith("the job's time was up at step")
    (job,) = job_ids(runs_of(tiny))
    slurm.start_now(job)
    wait_for_step(directory, status.step + 5)
    assert directory.status().attempt >= 2  # on a slow machine the next minute is up as well


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "unannounced"])
def test_a_preempted_run_goes_on(
    tiny: list[str],
    unbroken: tuple[dict[str, object], list[object]],
    announced: bool,
    monkeypatch: pytest.MonkeyPatch,
    slurm: Cluster,
    preempting: Cluster,
) -> None:
    """A job of a higher partition takes the only node, with and without the site's user signal."""
    cluster = slurm if announced else preempting
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    directory, job = started(tiny, "cluster.partition=main")
    node = directory.status().host
    cluster.submit("sleep 3", "-p", "high", "-w", node, "--exclusive", "--mem=0")
    wait_for_state(directory, State.PREEMPTED)
    finish_now(cluster, directory, job)
    assert directory.status().attempt == 2
    assert_unharmed(directory, unbroken)


@pytest.fixture(scope="module")
def preempting() -> object:
    """A cluster that preempts with SIGTERM alone, as SLURM does unless told otherwise."""
    from tests.slurm_fixtures import need_slurm

    need_slurm()
    with Cluster.start(nodes=1, preempt_signal=False, accounting="shim") as cluster:
        yield cluster


def test_a_requeue_from_outside_goes_on(
    slurm: Cluster, tiny: list[str], unbroken: tuple[dict[str, object], list[object]]
) -> None:
    directory, job = started(tiny)
    slurm.run("scontrol", "requeue", job)
    wait_for(lambda: condition(runs_of(tiny), directory.run_id) is Condition.QUEUED, 60)
    finish_now(slurm, directory, job)
    assert directory.status().attempt == 2
    assert_unharmed(directory, unbroken)


def test_a_dead_node_is_left_at_once(
    slurm: Cluster, tiny: list[str], unbroken: tuple[dict[str, object], list[object]]
) -> None:
    """The node dies with everything on it; SLURM requeues the job, which takes its run over without
    waiting for a lease to grow old."""
    directory, job = started(tiny)
    node = directory.status().host
    slurm.kill_node(node)
    assert directory.status().state is State.RUNNING, "nobody could write anything"
    slurm.down(node)
    finish_now(slurm, directory, job)
    status = directory.status()
    assert status.host != node and status.attempt == 2 and status.lost == 0
    assert_unharmed(directory, unbroken)


def test_a_killed_worker_is_replaced_within_its_job(
    slurm: Cluster, tiny: list[str], unbroken: tuple[dict[str, object], list[object]]
) -> None:
    directory, job = started(tiny)
    worker_of(directory).kill()
    wait_for_state(directory, State.DONE)
    assert directory.status().job == job and directory.status().attempt == 2
    assert_unharmed(directory, unbroken)


def test_a_run_that_kills_its_workers_fails_with_the_reason(
    slurm: Cluster, tiny: list[str]
) -> None:
    """As a cgroup out of memory does: the worker is killed, its parent is not."""
    directory, _ = started(tiny)
    first = worker_of(directory)
    first.kill()
    wait_for(lambda: directory.status().pid != first.pid, 60)
    worker_of(directory).kill()
    wait_for_state(directory, State.FAILED)
    assert directory.status().reason == (
        "its worker died 2 times: killed by SIGKILL (out of memory?)"
    )


def test_a_job_killed_whole_for_its_memory_is_told_by_slurm(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM's own memory limit kills every process of the job: nobody is left to write, and the
    next launch goes on."""
    from tests.slurm_fixtures import need_slurm

    need_slurm()
    limits = (
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=1",
        "JobAcctGatherParams=OverMemoryKill",
    )
    with Cluster.start(nodes=1, accounting="shim", extra=limits) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        submit([*tiny, *LONG, "cluster.memory=0.1"])
        root = runs_of(tiny)
        directory = only_run(root)
        (job,) = job_ids(root)
        cluster.wait_state(job, ("FAILED", "OUT_OF_MEMORY"))
        told = slurm_jobs(root)[job]
        assert not told.is_live
        assert condition(root, directory.run_id) in (Condition.LOST, Condition.WAITING)
        submit([*tiny, *LONG, "cluster.memory=3"])
        wait_for_state(directory, State.DONE)


def test_a_killed_job_process_leaves_no_orphan(
    slurm: Cluster, tiny: list[str], unbroken: tuple[dict[str, object], list[object]]
) -> None:
    """kill -9 of the process that SLURM started: its worker stops with a checkpoint, and a fresh
    submission finds it."""
    directory, job = started(tiny)
    parent = worker_of(directory).parent()
    assert parent is not None
    parent.kill()
    wait_for_state(directory, State.PREEMPTED)
    slurm.wait_state(job, "FAILED")
    assert condition(runs_of(tiny), directory.run_id) is Condition.STOPPED
    output = submit([*tiny, *LONG])
    assert "1 to resume" in output
    wait_for_state(directory, State.DONE)
    assert directory.status().job != job
    assert_unharmed(directory, unbroken)


def test_a_cancelled_job_stays_cancelled(
    slurm: Cluster, tiny: list[str], unbroken: tuple[dict[str, object], list[object]]
) -> None:
    directory, job = started(tiny)
    slurm.run("scancel", job)
    slurm.wait_state(job, "CANCELLED")
    assert directory.status().state in (State.PREEMPTED, State.RUNNING)
    found = condition(runs_of(tiny), directory.run_id)
    assert found in (Condition.STOPPED, Condition.LOST)
    submit([*tiny, *LONG])
    wait_for_state(directory, State.DONE)
    assert_unharmed(directory, unbroken)


def test_a_job_cancelled_while_it_waits_leaves_its_runs_waiting(
    slurm: Cluster, tiny: list[str]
) -> None:
    drain(slurm)
    submit(tiny)
    root, directory = runs_of(tiny), only_run(runs_of(tiny))
    assert condition(root, directory.run_id) is Condition.QUEUED
    slurm.run("scancel", *job_ids(root))
    wait_for(lambda: condition(root, directory.run_id) is Condition.WAITING, 60)
    undrain(slurm)
    assert "1 to run" in submit(tiny)
    wait_for_state(directory, State.DONE)


def test_a_controller_that_restarts_is_not_noticed(
    slurm: Cluster, tiny: list[str], unbroken: tuple[dict[str, object], list[object]]
) -> None:
    """While it is away a job is told to stop: the requeue is asked for until it is back."""
    directory, job = started(tiny)
    with held(worker_of(directory)):
        slurm.save(job)
        slurm.kill_controller()
        os.kill(worker_of(directory).ppid(), signal.SIGUSR2)
    wait_for_state(directory, State.PREEMPTED)
    assert condition(runs_of(tiny), directory.run_id) is Condition.STOPPED, "nobody can be asked"
    slurm.start_controller()
    finish_now(slurm, directory, job)
    assert_unharmed(directory, unbroken)


def test_a_silent_worker_of_a_running_job_is_not_called_dead(
    slurm: Cluster, tiny: list[str]
) -> None:
    """A heartbeat that is minutes old, as after a pause of the file system: SLURM's word counts."""
    directory, _ = started(tiny, "schedule.steps=100000", "evaluation.every=100000")
    with held(worker_of(directory)):
        os.utime(directory.lease_path, (1, 1))
        assert condition(runs_of(tiny), directory.run_id) is Condition.SILENT
        assert "1 running elsewhere" in submit(
            [*tiny, *LONG, *["schedule.steps=100000", "evaluation.every=100000"]]
        )
    wait_for(lambda: condition(runs_of(tiny), directory.run_id) is Condition.RUNNING, 60)
