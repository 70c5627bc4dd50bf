"""The tests' own SLURM cluster, with the real daemons: what it promises to those who use it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import slurm_packages
from tests.conftest import ROOT
from tests.processes import wait_for
from tests.slurm_cluster import Cluster
from tests.slurm_config import MEMORY_LIMIT
from tests.slurm_fixtures import Shared, need_slurm
from tests.slurm_processes import ClusterError, members, sweep

STUBBORN = "trap '' TERM INT; while :; do sleep 1; done"


def traces_of(folder: Path) -> list[str]:
    """What of a cluster is left in /proc: each process that has its folder in its command line, its
    environment, its working directory or its open files. Written apart from the cluster's own way.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            if (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            texts = [
                (process / name).read_bytes().decode("latin") for name in ("cmdline", "environ")
            ]
            links = [process / "cwd", *(process / "fd").iterdir()]
            texts += [os.readlink(link) for link in links if link.is_symlink()]
        except OSError:  # gone meanwhile, or another user's
            continue
        if any(str(folder) in text for text in texts):
            found.append(f"{process.name} {texts[0]!r}")
    return found


def printed(cluster: Cluster, job: str) -> str:
    """What a job has written so far."""
    output = cluster.folder / "log" / f"job-{job}.out"
    return output.read_text() if output.exists() else ""


@pytest.fixture(scope="module")
def lost_node() -> Iterator[tuple[Cluster, str, str]]:
    """A cluster of its own, a job, and its node, which has just died without a word.

    The controller takes half a minute to notice: the other tests of this file run meanwhile.
    """
    need_slurm()
    with Cluster.start(nodes=2, gpus=0) as cluster:
        job = cluster.submit(f"srun sleep 999 & {STUBBORN}")
        cluster.wait_state(job, "RUNNING")
        wait_for(lambda: len(cluster.job_pids(job)) >= 4, what="the job and its step")
        node = cluster.nodes_of(job)
        cluster.kill_node(node)
        yield cluster, job, node


def test_a_killed_node_has_no_process_left(lost_node: tuple[Cluster, str, str]) -> None:
    """Its daemon, its steps and its jobs; the other node is untouched."""
    cluster, job, node = lost_node
    assert [trace for trace in traces_of(cluster.folder) if f"slurmd.{node}." in trace] == []
    assert cluster.job_pids(job) == []
    assert not cluster.alive(f"slurmd.{node}")
    assert cluster.alive({"n1": "slurmd.n2", "n2": "slurmd.n1"}[node])


def test_slurm_starts_with_idle_nodes_and_their_gpus(slurm: Cluster) -> None:
    nodes = slurm.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T %G %c %m").splitlines()
    assert nodes == [f"{name} idle gpu:2 4 4000" for name in ("n1", "n2", "n3")]
    partitions = slurm.run("sinfo", "-h", "-o", "%P").split()
    assert sorted(partitions) == ["high", "main*", "short"]


def test_srun_reaches_every_node(slurm: Cluster) -> None:
    output = slurm.run("srun", "-N3", "sh", "-c", "echo $SLURMD_NODENAME")
    assert sorted(output.split()) == ["n1", "n2", "n3"]


def test_slurm_gives_each_job_gpus_of_its_own(slurm: Cluster) -> None:
    """Two jobs on one node see one GPU each, and not the same; a third waits."""
    options = ("--gres=gpu:1", "--nodelist=n1")
    jobs = [slurm.submit(f"echo gpu=$CUDA_VISIBLE_DEVICES; {STUBBORN}", *options) for _ in "12"]
    waiting = slurm.submit("true", *options)
    for job in jobs:
        slurm.wait_state(job, "RUNNING")
    wait_for(lambda: "\n" in printed(slurm, jobs[0]) and "\n" in printed(slurm, jobs[1]))
    assert sorted(printed(slurm, job) for job in jobs) == ["gpu=0\n", "gpu=1\n"]
    assert slurm.states(waiting) == ["PENDING"]


def test_slurm_runs_every_task_of_an_array(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit(f"echo $SLURM_ARRAY_TASK_ID >>{tmp_path}/tasks", "--array=0-5%2")
    slurm.wait_state(job, "COMPLETED")
    assert sorted((tmp_path / "tasks").read_text().split()) == list("012345")
    assert slurm.states(f"{job}_3") == ["COMPLETED"]
    told = slurm.run("sacct", "-n", "-P", "-o", "JobID,State", "-j", job)
    assert sorted(told.split()) == [f"{job}_{task}|COMPLETED" for task in range(6)]


def test_the_stand_in_sacct_refuses_what_it_cannot_answer(slurm: Cluster) -> None:
    with pytest.raises(ClusterError, match="unknown column MaxRSS"):
        slurm.run("sacct", "-o", "JobID,MaxRSS")
    assert slurm.run("sacct", "-n", "-o", "State", "-j", "1") == ""


def test_a_requeued_job_runs_again(slurm: Cluster) -> None:
    """The job id stays, and so does nothing of the first attempt."""
    job = slurm.submit(STUBBORN)
    slurm.wait_state(job, "RUNNING")
    wait_for(lambda: bool(slurm.job_pids(job)), what="the job's processes")
    first = slurm.job_pids(job)
    slurm.run("scontrol", "requeue", job)
    slurm.start_now(job)
    slurm.wait_state(job, "RUNNING")
    assert slurm.restarts(job) == 1
    assert not set(first) & set(slurm.job_pids(job))


def test_a_preempted_job_gets_its_signal_first(slurm: Cluster, tmp_path: Path) -> None:
    """A job of `main` makes room for one of `high`, after a word of warning, and comes back."""
    flag = tmp_path / "flag"
    script = (
        f"trap 'echo warned >>{flag}; exit 0' USR1; echo ready >{flag}; while :; do sleep 0.1; done"
    )
    low = slurm.submit(script, "--exclusive", "-N3", "--signal=B:USR1@20")
    wait_for(flag.exists, what="the job of main")
    high = slurm.submit("true", "--partition=high")
    slurm.wait_state(high, "COMPLETED")
    assert flag.read_text().split() == ["ready", "warned"]
    assert slurm.states(low)[0] in ("PENDING", "RUNNING", "COMPLETED")


def test_a_controller_that_crashes_keeps_a_saved_job(slurm: Cluster) -> None:
    job = slurm.submit(STUBBORN)
    slurm.wait_state(job, "RUNNING")
    wait_for(lambda: bool(slurm.job_pids(job)), what="the job's processes")
    slurm.save(job)
    before = slurm.job_pids(job)[0]
    slurm.kill_controller()
    assert not slurm.alive("slurmctld")
    slurm.start_controller()
    assert slurm.states(job) == ["RUNNING"]
    assert before in slurm.job_pids(job)


def test_sacct_knows_who_cancelled_a_job(slurm_accounting: Cluster) -> None:
    """With slurmdbd; the stand-in sacct cannot know."""
    job = slurm_accounting.submit(STUBBORN)
    slurm_accounting.wait_state(job, "RUNNING")
    slurm_accounting.run("scancel", job)

    def state() -> str:
        return slurm_accounting.run("sacct", "-X", "-n", "-P", "-o", "State", "-j", job).strip()

    wait_for(lambda: state() == f"CANCELLED by {os.getuid()}", what="sacct to tell of the end")


def test_what_a_test_leaves_is_gone_for_the_next(slurm: Cluster, shared_slurm: Shared) -> None:
    """Running and waiting jobs, a node that is down, and one that has died."""
    jobs = [slurm.submit(STUBBORN), slurm.submit("true", "--array=0-9", "--begin=now+1hour")]
    slurm.wait_state(jobs[0], "RUNNING")
    slurm.down("n2")
    slurm.kill_node("n3")
    assert shared_slurm.lend() is slurm
    assert slurm.run("squeue", "-h") == ""
    assert slurm.run("srun", "-N3", "--exclusive", "echo", "here").split() == ["here"] * 3


def test_after_a_crash_of_the_controller_there_is_a_new_cluster(
    slurm: Cluster, shared_slurm: Shared
) -> None:
    job = slurm.submit("true")
    slurm.kill_controller()
    after = shared_slurm.lend()
    assert after is not slurm
    assert members(slurm.folder) == []
    assert after.submit("true") != job


def test_stop_leaves_neither_process_nor_file() -> None:
    """Nor a job that hides: one that ignores signals, or has emptied its environment."""
    need_slurm()
    with Cluster.start(nodes=1, gpus=0, extra=MEMORY_LIMIT) as cluster:
        job = cluster.submit(f'cd {cluster.folder}; env -i sh -c "{STUBBORN}" & srun sleep 999')
        cluster.wait_state(job, "RUNNING")
        wait_for(lambda: len(traces_of(cluster.folder)) >= 9, what="daemons, steps and the job")
    wait_for(lambda: not cluster.folder.exists(), what="the folder to go")
    assert traces_of(cluster.folder) == []


def test_memory_is_limited_when_that_is_asked_for() -> None:
    need_slurm()
    with Cluster.start(nodes=1, gpus=0, extra=MEMORY_LIMIT) as cluster:
        greedy = "import time; x = bytearray(200 << 20); time.sleep(60)"
        job = cluster.submit(f"{sys.executable} -c '{greedy}'", "--mem=50")
        assert cluster.wait_state(job, ("FAILED", "OUT_OF_MEMORY")) == "FAILED"
        assert "exceeded memory limit" in printed(cluster, job)


def test_a_killed_test_session_is_swept_by_the_next() -> None:
    need_slurm()
    code = (
        "from tests.slurm_cluster import Cluster; import time\n"
        "cluster = Cluster.start(nodes=1, gpus=0)\n"
        f"cluster.submit({STUBBORN!r}); print(cluster.folder, flush=True); time.sleep(600)"
    )
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        assert folder not in sweep(), "its owner lives"
        owner.send_signal(signal.SIGKILL)
    assert traces_of(folder)
    assert folder in sweep()
    assert traces_of(folder) == []
    assert not folder.exists()


@pytest.mark.parametrize("variable", ["CI", "SPAM_LAB_REQUIRE_SLURM"])
def test_without_slurm_tests_are_skipped_but_fail_in_ci(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("SPAM_LAB_REQUIRE_SLURM", raising=False)
    monkeypatch.setattr(slurm_packages, "program", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match="not installed: munge slurmctld"):
        need_slurm()
    monkeypatch.setenv(variable, "1")
    with pytest.raises(pytest.fail.Exception, match="not installed: munge slurmctld"):
        need_slurm()


def test_installing_slurm_says_nothing_where_all_is_there() -> None:
    need_slurm(accounting=True)
    argv = [sys.executable, "-m", "tests.slurm_packages"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_dead_node_is_noticed_and_its_job_goes_elsewhere(
    lost_node: tuple[Cluster, str, str],
) -> None:
    cluster, job, node = lost_node
    cluster.wait_node(node, "down", seconds=120)
    cluster.start_now(job)
    cluster.wait_state(job, "RUNNING")
    assert cluster.nodes_of(job) == {"n1": "n2", "n2": "n1"}[node]
    assert cluster.restarts(job) == 1
    cluster.start_node(node)
    assert cluster.node_state(node) == {"idle"}
