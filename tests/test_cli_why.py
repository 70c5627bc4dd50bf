"""`spam-lab why`: what became of a run, by its directory, its log and SLURM, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from spam_lab.cli import main
from spam_lab.commands.advice import Evidence, advice
from spam_lab.orchestrate.slurm.queue import JobInfo
from spam_lab.orchestrate.truth import Condition, Truth
from spam_lab.record.state import State
from spam_lab.record.store import Status
from tests.made_runs import beat, make_run, snapshot, submitted, sweep_of
from tests.slurm_cluster import Cluster

LOG = """\
2020-01-01 10:00:00,001 ERROR Traceback (most recent call last):
  File "old.py", line 1, in <module>
ValueError: an old one
2099-01-01 10:00:00,001 WARNING something
2099-01-01 10:00:01,001 ERROR Traceback (most recent call last):
  File "loop.py", line 7, in step
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "loop.py", line 9, in step
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.

2099-01-01 10:00:02,001 INFO afterwards
"""


def why(root: Path, run_id: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and output; that nothing was written is looked at, too."""
    before = snapshot(root)
    code = main(["why", run_id, "--runs", str(root)])
    assert snapshot(root) == before
    return code, capsys.readouterr().out


def test_a_failure_with_its_traceback_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    directory = make_run(tmp_path, "aa", "failed", host="n1", step=7, reason=reason)
    directory.log_path.write_text(LOG)
    sweep_of(tmp_path, "aa", "bb")
    code, output = why(tmp_path, "aa", capsys)
    assert code == 1
    lines = output.splitlines()
    assert lines[0] == "aa (spam llama_60m seed=0) of figure9 (nano)"
    assert lines[1] == "condition  failed: step 7 of 480, attempt 1"
    assert f"reason     {reason}" in lines
    assert lines[-1] == (
        f"  python launch.py sweep=figure9 schedule.steps=480 paths.runs={tmp_path} "
        "train.micro_batch_size=2"
    )
    assert "GPU's memory is too small" in lines[-2]
    told = output[output.index("Traceback") : output.index("what to do")]
    assert "KeyError: 'x'" in told and "torch.OutOfMemoryError" in told
    assert "an old one" not in output and "afterwards" not in output
    assert f"failed    step 7 on n1: {reason}" in output


def test_an_old_traceback_explains_no_later_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = make_run(tmp_path, "aa", "failed", reason="its worker died 2 times: killed by X")
    directory.log_path.write_text("\n".join(LOG.splitlines()[:3]) + "\n")
    code, output = why(tmp_path, "aa", capsys)
    assert code == 1
    assert "an older error at 2020-01-01 10:00:00:\n  ValueError: an old one" in output


def test_a_run_that_was_never_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "aa", "done")
    sweep_of(tmp_path, "aa", "bb")
    code, output = why(tmp_path, "bb", capsys)
    assert code == 0
    assert output.splitlines()[:2] == ["bb of figure9 (nano)", "condition  waiting"]
    assert "  python launch.py sweep=figure9 " in output


def test_a_single_run_is_launched_by_its_own_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = make_run(tmp_path, "aa", "preempted", checkpoint_step=50)
    command = ["launch.py", "optimizer.theta=50,500", "a='x, y'", f"paths.runs={tmp_path}"]
    directory.add_provenance({"command": command})
    code, output = why(tmp_path, "aa", capsys)
    assert code == 0
    assert "goes on from its checkpoint at step 50" in output
    assert output.splitlines()[-1].startswith("  python launch.py -m optimizer.theta=50,500 ")


@pytest.mark.parametrize(
    ("condition", "text", "job", "said", "typed"),
    [
        ("failed", "OutOfMemoryError: CUDA out of memory", "", "GPU's memory", "batch_size=4"),
        ("failed", "slurmstepd: Detected 1 oom_kill event", "", "(8 GB)", "cluster.memory=16"),
        ("lost", "", "OUT_OF_MEMORY", "(8 GB) was too small", "cluster.memory=16"),
        ("failed", "OSError: No space left on device", "FAILED", "disk is full", "launch"),
        ("lost", "", "NODE_FAIL", "node failed", "launch"),
        ("lost", "", "PREEMPTED", "make room for another", "launch"),
        ("lost", "", "CANCELLED", "was cancelled", "launch"),
        ("lost", "", "TIMEOUT", "time was up", "cluster.time=480"),
        ("lost", "JOB 7 ON n1 CANCELLED AT 10:00 DUE TO TIME LIMIT", "", "time was up", "=480"),
        ("lost", "", "", "worker was killed. Launch again; it goes on from", "launch"),
        ("failed", "5 workers in a row vanished", "", "without a word", "batch_size=4"),
        ("failed", "ConnectionError: huggingface.co", "", "could not be fetched", "launch"),
        ("failed", "ValueError: strange", "FAILED", "mend what it names", "launch"),
        ("diverged", "loss is nan", "COMPLETED", "This is a result", "spam-lab retry aa"),
        ("done", "", "", "has its result", ""),
        ("running", "", "RUNNING", "being trained", "status --watch"),
        ("silent", "", "RUNNING", "Wait some minutes", "spam-lab cancel aa && launch"),
        ("stopped", "", "", "step 50", "launch"),
        ("waiting", "", "", "No job and no worker", "launch"),
    ],
)
def test_what_to_do_by_cause(condition: str, text: str, job: str, said: str, typed: str) -> None:
    status = Status(State.RUNNING, checkpoint_step=50, job="7", reason=text)
    info = JobInfo("7", job) if job else None
    config = {
        "optimizer": {"lr": 0.002},
        "data": {"batch_size": 8},
        "train": {"micro_batch_size": None},
        "cluster": {"memory": 8.0, "time": 240},
    }
    evidence = Evidence(
        Truth("aa", status, Condition(condition), info),
        info,
        text,
        config,
        lambda *extra: " ".join(["launch", *extra]),
    )
    found = advice(evidence)
    assert said in found.text and typed in found.command, found
    assert bool(found.command) == bool(typed)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("Resources", "its turn"),
        ("Priority", "its turn"),
        ("JobArrayTaskLimit", "cluster.max_jobs"),
        ("PartitionTimeLimit", "smaller cluster.time"),
        ("QOSMaxJobsPerUserLimit", "limit of your account"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "down or reserved"),
        ("JobHeldUser", "scontrol release 7_1"),
        ("BeginTime", "two minutes"),
        ("Quux", "scontrol show job 7_1"),
    ],
)
def test_what_a_queued_run_waits_for(reason: str, said: str) -> None:
    truth = Truth("aa", Status(), Condition.QUEUED, JobInfo("7_1", "PENDING", reason))
    found = advice(Evidence(truth, truth.job, "", {}, lambda *extra: "launch"))
    assert said in found.text


def test_slurm_says_that_the_job_was_cancelled(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = slurm.submit("sleep 300")
    slurm.wait_state(job, "RUNNING")
    directory = make_run(tmp_path, "aa", "running", host="n1", job=job, step=30)
    beat(directory, age=600)
    submitted(tmp_path, (job, ["aa"]))
    code, output = why(tmp_path, "aa", capsys)
    assert code == 0
    assert "condition  silent: " in output
    assert f"job {job:6} RUNNING" in output
    slurm.run("scancel", job)
    slurm.wait_state(job, "CANCELLED")
    code, output = why(tmp_path, "aa", capsys)
    assert code == 1
    assert "condition  lost: " in output and f"job {job:6} CANCELLED" in output
    assert "Its job was cancelled. Launch again; it begins anew:" in output


def test_slurm_says_that_the_node_failed(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = slurm.submit("sleep 300", "--no-requeue", "-w", "n2")
    slurm.wait_state(job, "RUNNING")
    make_run(tmp_path, "aa", "running", host="n2", job=job, checkpoint_step=20)
    slurm.down("n2")
    slurm.wait_state(job, "NODE_FAIL")
    submission = submitted(tmp_path, (job, ["aa"]))
    (submission.jobs_folder / f"{job}_0_log.out").write_text("INFO the last words\n")
    code, output = why(tmp_path, "aa", capsys)
    assert code == 1
    assert f"job {job:6} NODE_FAIL" in output and "  INFO the last words" in output
    assert "Its node failed; the run is not to blame. Launch again; it goes on from" in output
