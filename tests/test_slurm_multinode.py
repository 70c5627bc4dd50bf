"""One run over several nodes of a real SLURM cluster: ranks that slurmctld starts meet through
gloo, leave the curve of a single process, and outlive the loss of one of them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory
from tests.processes import run_launch, wait_for
from tests.slurm_cluster import Cluster
from tests.slurm_lab import (
    LONG,
    job_ids,
    only_run,
    runs_of,
    states,
    submit,
    wait_for_state,
    wait_for_step,
)

TWO_NODES = ["cluster.nodes=2", "cluster.gpus=0", "cluster.processes=1"]


def curve(directory: RunDirectory, name: str) -> dict[int, float]:
    return {m.step: m.values[name] for m in directory.metrics() if name in m.values}


def ranks_of(cluster: Cluster, job: str) -> dict[str, psutil.Process]:
    """The worker of each node, by node."""
    found = {}
    for pid in cluster.job_pids(job):
        process = psutil.Process(pid)
        if "spam_lab.orchestrate.worker" in process.cmdline():
            found[process.environ()["SLURMD_NODENAME"]] = process
    return found


def test_two_nodes_leave_the_curve_of_one_process(
    slurm: Cluster, tiny: list[str], tmp_path: Path
) -> None:
    """The same run_id, whose loss agrees to float tolerance at every step."""
    alone = [o for o in tiny if not o.startswith("paths.runs=")]
    code, output = run_launch([*alone, f"paths.runs={tmp_path / 'alone'}"])
    assert code == 0, output
    output = submit([*tiny, *TWO_NODES])
    assert "2 nodes of 0 GPUs, 2 processes a run" in output
    together, single = only_run(runs_of(tiny)), only_run(tmp_path / "alone")
    assert together.run_id == single.run_id
    wait_for_state(together, State.DONE)
    for name in ("train/loss", "validation/loss", "train/grad_norm"):
        one, other = curve(single, name), curve(together, name)
        assert one.keys() == other.keys() and one
        assert list(other.values()) == pytest.approx(list(one.values()), rel=2e-5)
    assert len(together.provenance()) == 1


def test_a_killed_rank_ends_its_job_cleanly_and_all_go_on(slurm: Cluster, tiny: list[str]) -> None:
    """kill -9 of the rank that writes nothing: the other notices, and the job is requeued whole."""
    submit([*tiny, *LONG, *TWO_NODES])
    directory = only_run(runs_of(tiny))
    wait_for_step(directory)
    (job,) = job_ids(runs_of(tiny))
    ranks = ranks_of(slurm, job)
    writer = directory.status().host
    assert len(ranks) == 2 and writer in ranks
    (other,) = [process for node, process in ranks.items() if node != writer]
    other.kill()
    wait_for(lambda: slurm.restarts(job) == 1, 90, "the job to be requeued")
    slurm.start_now(job)
    wait_for_state(directory, State.DONE)
    assert directory.status().job == job and directory.status().attempt == 2
    assert states(directory) == ["submitted", "running", "submitted", "running", "done"]
    steps = [line.step for line in directory.metrics()]
    assert steps == sorted(set(steps)) and steps[-1] == directory.status().steps


def test_the_announcement_of_the_end_reaches_every_rank(slurm: Cluster, tiny: list[str]) -> None:
    submit([*tiny, *LONG, *TWO_NODES])
    directory = only_run(runs_of(tiny))
    wait_for_step(directory)
    (job,) = job_ids(runs_of(tiny))
    slurm.run("scancel", "--signal=USR2", job)
    wait_for_state(directory, State.PREEMPTED)
    assert directory.status().checkpoint_step == directory.status().step
    slurm.start_now(job)
    wait_for_state(directory, State.DONE)
    assert directory.status().lost == 0
