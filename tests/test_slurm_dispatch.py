"""Sweeps on a real SLURM cluster (slurmctld, three slurmd with fake GPUs, munge): submit and leave,
what is queued is not submitted again, arrays stay as few and as small as they must, jobs run the
code as it was, and what SLURM would refuse is refused before anything is submitted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from submitit.core.job_environment import _checkpoint
from submitit.helpers import DelayedSubmission

from spam_lab.orchestrate.slurm import resources
from spam_lab.orchestrate.slurm.job import SlurmJob
from spam_lab.orchestrate.slurm.ledger import submissions
from spam_lab.orchestrate.truth import Condition
from spam_lab.record.state import State
from spam_lab.record.store import run_directories
from tests.processes import launched, run_launch, wait_for
from tests.slurm_cluster import Cluster
from tests.slurm_fixtures import need_slurm
from tests.slurm_lab import (
    LONG,
    ON_SLURM,
    condition,
    drain,
    has_come_to,
    job_ids,
    last_submission,
    only_run,
    runs_of,
    states,
    submit,
    undrain,
    wait_for_state,
    wait_for_step,
)


def all_done(root: Path) -> bool:
    return all(has_come_to(d, State.DONE) for d in run_directories(root))


def test_submit_and_leave(slurm: Cluster, tiny: list[str]) -> None:
    """One array, one job a run, each with its GPU; a second call submits nothing, then finds all
    there; what ran is frozen code, whose account stands with the run."""
    root = runs_of(tiny)
    grid = ["-m", *tiny, "seed=0,1,2"]
    output = submit(grid)
    assert "3 runs: 3 to run" in output
    assert "3 jobs for 3 runs, 1 GPU" in output
    assert "spam-lab status" in output and "spam-lab cancel" in output
    (array,) = last_submission(root).arrays
    assert f"submitted: job {array.job_ids[0].partition('_')[0]} (3 elements)" in output
    output = submit(grid)
    assert "submitted" not in output
    assert len(submissions(root)) == 1
    wait_for(lambda: all_done(root), 150, "three runs")
    slurm.wait_state(array.job_ids[0].partition("_")[0], "COMPLETED")
    for directory in run_directories(root):
        assert states(directory) == ["submitted", "running", "done"]
        (attempt,) = directory.provenance()
        assert attempt["job"] in array.job_ids
        assert attempt["command"][:1] == ["launch.py"] and "seed=0,1,2" in attempt["command"]
        assert attempt["code"] and (root / ".code" / attempt["code"] / "launch.py").exists()
        assert "torch==" in (directory.path / "environment.txt").read_text()
        assert (directory.path / "uncommitted.diff").exists()
        assert directory.status().memory_bytes > 50e6
    assert "3 already there" in submit(grid)
    assert not last_submission(root).is_open


def test_follow_shows_progress_and_ctrl_c_leaves_the_jobs(slurm: Cluster, tiny: list[str]) -> None:
    root = runs_of(tiny)
    with launched([*tiny, *LONG, *ON_SLURM, "--follow"]) as process:
        wait_for(lambda: bool(list(run_directories(root))), 60)
        wait_for_step(only_run(root), 5)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "left; the jobs go on" in output
    assert condition(root, only_run(root).run_id) is Condition.RUNNING
    with launched([*tiny, *LONG, *ON_SLURM, "--follow"]) as process:
        output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    assert "submitted" not in output
    assert "1 runs: 1 done" in output


def test_packing_and_throttle(slurm: Cluster, tiny: list[str]) -> None:
    """Five runs, two a job, at most one job at a time: three jobs, each run trained once."""
    root = runs_of(tiny)
    output = submit(["-m", *tiny, "seed=range(5)", "cluster.runs_per_job=2", "cluster.max_jobs=1"])
    assert "3 jobs for 5 runs" in output and "at most 1 at a time" in output
    (array,) = last_submission(root).arrays
    parallel = slurm.run("scontrol", "show", "job", array.job_ids[-1])
    assert "ArrayTaskThrottle=1" in parallel
    wait_for(lambda: all_done(root), 200, "five runs")
    jobs = [d.status().job for d in run_directories(root)]
    assert sorted(jobs.count(job) for job in set(jobs)) == [1, 2, 2]


def test_side_by_side_and_pull(slurm: Cluster, tiny: list[str]) -> None:
    """Two jobs share six runs: each claims what waits, two at a time, on GPUs of their own."""
    root = runs_of(tiny)
    output = submit(
        [
            *["-m", *tiny, "seed=range(6)", "cluster.jobs=2", "cluster.side_by_side=2"],
            *["cluster.gpus=2", "cluster.processes=1"],
        ]
    )
    assert "2 jobs for 6 runs" in output and "claims the next run that waits" in output
    wait_for(lambda: all_done(root), 200, "six runs")
    jobs = [d.status().job for d in run_directories(root)]
    assert set(jobs) == set(job_ids(root)), "both jobs trained"
    assert [d.status().attempt for d in run_directories(root)] == [1] * 6
    histories = [d.history() for d in run_directories(root) if d.status().job == jobs[0]]
    spans = sorted((h[-2]["updated_ms"], h[-1]["updated_ms"]) for h in histories)
    assert spans[1][0] < spans[0][1], "two runs of one job overlap"


def test_jobs_run_the_code_as_it_was(
    slurm: Cluster, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout is broken between submission and start; the job does not notice."""
    checkout = tmp_path / "checkout"
    here = Path(__file__).resolve().parents[1]
    subprocess.run(["git", "clone", "-q", str(here), str(checkout)], check=True)
    changed = subprocess.run(
        ["git", "ls-files", "-comz", "--exclude-standard"],
        cwd=here,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, changed):  # what is not committed yet is tested too
        if (here / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout / name).write_bytes((here / name).read_bytes())
    program = [str(checkout / "launch.py")]
    drain(slurm)
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    with launched([*tiny, *ON_SLURM], program) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    for path in (checkout / "spam_lab").rglob("*.py"):
        path.write_text("raise SystemExit('edited after submission')\n")
    monkeypatch.delenv("PYTHONPATH")
    undrain(slurm)
    wait_for_state(only_run(runs_of(tiny)), State.DONE)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (["cluster.partition=nowhere"], "invalid partition"),
        (["cluster.gpus=64"], "SLURM would refuse"),
        (["cluster.partition=short", "cluster.time=5"], "partition short gives at most 1"),
        (["cluster.partition=high\n#SBATCH --comment=x"], "one line of visible text"),
        (["+cluster.flags.array=0-5"], "own options"),
        (["cluster.signal_seconds=600", "cluster.time=5"], "less than the time of a job"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_submitted(
    slurm: Cluster, tiny: list[str], bad: list[str], told: str
) -> None:
    if "\n" in bad[0]:
        bad = [f"cluster.partition='{bad[0].removeprefix('cluster.partition=')}'"]
    output = submit([*tiny, *bad], expected=1)
    assert told in output
    assert slurm.run("squeue", "-h").strip() == ""
    assert list(run_directories(runs_of(tiny))) == []


def test_without_slurm_it_says_so(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No real component: there is none. A plan can be looked at all the same."""
    monkeypatch.setenv("PATH", "/nowhere")
    code, output = run_launch([*tiny, *ON_SLURM])
    assert code == 1
    assert "no sbatch" in output and "cluster=local" in output
    code, output = run_launch([*tiny, *ON_SLURM, "dry_run=true"])
    assert code == 0, output
    assert "1 job for 1 run" in output


def test_a_controller_that_is_away_is_said(slurm: Cluster, tiny: list[str]) -> None:
    slurm.kill_controller()
    output = submit(tiny, expected=1)
    assert "scontrol ping" in output or "controller" in output
    assert list(run_directories(runs_of(tiny))) == []
    slurm.start_controller()


def test_an_interrupted_submission_is_taken_back_by_the_next(
    slurm: Cluster, tiny: list[str]
) -> None:
    """The command is killed after sbatch took the array and before its job id was written down."""
    root = runs_of(tiny)
    drain(slurm)
    submit(["-m", *tiny, "seed=0,1"])
    submission = last_submission(root)
    (array,) = submission.arrays
    before, array.job_ids = array.job_ids, []
    submission.write()
    output = submit(["-m", *tiny, "seed=0,1"])
    stray = before[0].partition("_")[0]
    assert f"cancelled job {stray} of an interrupted submission" in output
    assert "submitted: job" in output
    slurm.wait_state(stray, "CANCELLED")
    undrain(slurm)
    wait_for(lambda: all_done(root), 150, "two runs")


def test_arrays_stay_below_the_sites_limit(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real slurmctld with MaxArraySize=3: five jobs become two arrays."""
    need_slurm()
    with Cluster.start(nodes=1, max_array_size=3, accounting="shim") as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        drain(cluster)
        output = submit(["-m", *tiny, "seed=range(5)"])
        assert "3 jobs for 3 runs" in output and "2 jobs for 2 runs" in output
        first, second = last_submission(runs_of(tiny)).arrays
        assert (len(first.job_ids), len(second.job_ids)) == (3, 2)
        assert len(cluster.run("squeue", "-h", "-r").splitlines()) == 5


def test_two_thousand_runs_go_in_one_call(slurm: Cluster, tiny: list[str]) -> None:
    """As two arrays, each below slurmctld's default limit; a second call finds them queued."""
    drain(slurm)
    root = runs_of(tiny)
    grid = ["-m", *tiny, "seed=range(5)", "optimizer.eps=range(1,401)"]
    output = submit(grid)
    assert "2000 runs: 2000 to run" in output
    assert [array.jobs for array in last_submission(root).arrays] == [1001, 999]
    assert len(slurm.run("squeue", "-h", "-r", "-o", "%i").splitlines()) == 2000
    assert "2000 in SLURM's queue" in submit(grid)
    assert len(submissions(root)) == 1


def test_submitting_from_inside_a_job_inherits_nothing_of_it(
    slurm: Cluster, tiny: list[str]
) -> None:
    """From an interactive job's shell: the new job has its own limits, not its parent's."""
    root = runs_of(tiny)
    here = Path(__file__).resolve().parents[1]
    command = [sys.executable, str(here / "launch.py"), *tiny, *ON_SLURM]
    slurm.run("srun", "--mem=700", "-c", "3", "-J", "parent", *command, cwd=here, seconds=120)
    (job,) = job_ids(root)
    shown = slurm.run("scontrol", "show", "job", job)
    assert "CPUs/Task=1" in shown and "MinMemoryNode=700M" not in shown
    wait_for_state(only_run(root), State.DONE)
    assert only_run(root).status().job == job


def test_a_signal_before_ours_is_heard_requeues_the_same_job(tmp_path: Path) -> None:
    """submitit's own handler, which is there a moment before the job's: no limit of timeouts, and
    what it pickles again is the same path."""
    job = SlurmJob(str(tmp_path / "array_0.json"), 3)
    delayed = DelayedSubmission(job)
    delayed.set_timeout(5, resources.EVERY_SIGNAL)
    pickled = tmp_path / "job.pkl"
    assert _checkpoint(delayed, pickled, delayed._timeout_countdown - 1) == ""
    again = DelayedSubmission.load(pickled)
    assert again.function == job
    assert again._timeout_countdown == resources.EVERY_SIGNAL - 1
    assert pickled.stat().st_size < 1000, "a path and a number, whatever the plan"


@pytest.mark.parametrize("shared", ["runs", ".slurm"])
def test_a_folder_that_everybody_can_write_to_is_refused(
    slurm: Cluster, tiny: list[str], shared: str
) -> None:
    """Jobs load code from it."""
    root = runs_of(tiny)
    folder = root if shared == "runs" else root / shared
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    output = submit(tiny, expected=1)
    assert str(folder) in output and "chmod" in output
    assert slurm.run("squeue", "-h").strip() == ""


def test_a_larger_model_asks_for_more(slurm: Cluster, tiny: list[str]) -> None:
    """The paper's 1B wants eight GPUs where a 60M wants one. (Refused, so nothing is trained.)"""
    paper = ["scale=paper", "data=c4", "precision=bf16", "optimizer=adam", tiny[-2]]
    output = submit(
        ["-m", *paper, "model=llama_60m,llama_1b", "cluster.partition=nowhere"],
        expected=1,
        where=["cluster=slurm"],
    )
    assert "8 GPUs, 8 processes a run, 1440 min" in output
    assert "1 job for 1 run, 1 GPU, 240 min" in output
    assert "invalid partition" in output
