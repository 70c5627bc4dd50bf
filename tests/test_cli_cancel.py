"""`spam-lab cancel`: real jobs are cancelled, and no other run is ended with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spam_lab.cli import main
from spam_lab.orchestrate.slurm import queue
from spam_lab.orchestrate.slurm.queue import SlurmError
from tests.made_runs import beat, make_run, snapshot, submitted, sweep_of
from tests.slurm_cluster import Cluster


def cancel(runs: Path, *arguments: str) -> int:
    return main(["cancel", *arguments, "--runs", str(runs)])


@pytest.fixture
def three(slurm: Cluster, tmp_path: Path) -> str:
    """An array of three jobs of one run each: two run, one is held back. The array's id."""
    job = slurm.submit("sleep 300", "--array=0-2%2")
    for number in range(3):
        make_run(tmp_path, f"a{number}", seed=number)
    sweep_of(tmp_path, "a0", "a1", "a2")
    submitted(tmp_path, *((f"{job}_{number}", [f"a{number}"]) for number in range(3)))
    slurm.wait_state(f"{job}_0", "RUNNING")
    slurm.wait_state(f"{job}_1", "RUNNING")
    return job


def test_one_element_of_an_array(
    three: str, slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cancel(tmp_path, "a1") == 0
    output = capsys.readouterr().out
    assert f"cancelled 1 job: {three}_1; 1 ran, and their runs stop at the next step" in output
    assert "figure9 (nano): 3 runs: 2 queued, 1 waiting" in output
    assert slurm.states(f"{three}_1") == ["CANCELLED"]
    assert slurm.states(f"{three}_0") == ["RUNNING"]


def test_a_whole_sweep_also_what_waits(
    three: str, slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = slurm.submit("sleep 300")
    assert cancel(tmp_path, "figure9") == 0
    output = capsys.readouterr().out
    assert f"cancelled 3 jobs: {three}_0, {three}_1, {three}_2; 2 ran" in output
    assert "figure9 (nano): 3 runs: 3 waiting" in output
    assert set(slurm.states(three)) == {"CANCELLED"}
    slurm.wait_state(other, "RUNNING")
    assert cancel(tmp_path, "--all") == 0
    assert "no job holds any of these runs: nothing to cancel" in capsys.readouterr().out
    assert slurm.states(other) == ["RUNNING"], "not a job of these runs"


def test_a_job_that_holds_other_runs_is_not_cancelled_for_one(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = slurm.submit("sleep 300")
    slurm.wait_state(job, "RUNNING")
    make_run(tmp_path, "a0", "done", seed=0, job=job)
    beat(make_run(tmp_path, "a1", "running", seed=1, host="n1", job=job))
    make_run(tmp_path, "a2", seed=2)
    submitted(tmp_path, (job, ["a0", "a1", "a2"]))
    before = snapshot(tmp_path)
    assert cancel(tmp_path, "a1") == 1
    assert (
        f"job {job} also holds a2 (spam llama_60m seed=2): nothing was cancelled. Add --yes"
        in capsys.readouterr().err
    )
    assert slurm.states(job) == ["RUNNING"] and snapshot(tmp_path) == before
    assert cancel(tmp_path, "a1", "a2") == 0, "a0 has its result and needs no job"
    assert slurm.states(job) == ["CANCELLED"]


def test_yes_cancels_it_all_the_same(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit("sleep 300", "--hold")
    make_run(tmp_path, "a1", seed=1)
    make_run(tmp_path, "a2", seed=2)
    submitted(tmp_path, (job, ["a1", "a2"]))
    assert cancel(tmp_path, "a1", "--yes") == 0
    assert slurm.states(job) == ["CANCELLED"]


def test_workers_on_a_computer_are_left_to_their_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beat(make_run(tmp_path, "a1", "running", pid=os.getpid()), host="here")
    beat(make_run(tmp_path, "a2", "running", seed=1, host="other", pid=77))
    assert cancel(tmp_path, "--all") == 1
    output = capsys.readouterr().out
    here = f"process {os.getpid()} on this computer, started by process {os.getppid()} trains it"
    assert here in output and "process 77 on other trains it" in output
    assert output.count("Ctrl-C where it was launched stops it") == 2


def test_it_wants_to_be_told_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, "a1")
    for arguments in ([], ["a1", "--all"]):
        assert cancel(tmp_path, *arguments) == 1
        assert "name the sweeps or runs whose jobs to cancel, or give --all" in (
            capsys.readouterr().err
        )

    def silent() -> None:
        raise SlurmError("squeue did not answer")

    submitted(tmp_path, ("7", ["a1"]))
    monkeypatch.setattr(queue, "is_here", lambda: True)
    monkeypatch.setattr(queue, "own_jobs", silent)
    assert cancel(tmp_path, "a1") == 1
    assert "SLURM cannot be asked: squeue did not answer" in capsys.readouterr().err
