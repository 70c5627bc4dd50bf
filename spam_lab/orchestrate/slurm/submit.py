"""Submission of a plan as job arrays: everything is checked first, then handed over in one go.

It promises that nothing stays half submitted: what SLURM refuses is refused before the first array
where SLURM can be asked, and takes back what was submitted where it cannot; a submission that was
interrupted is found by the next one, which cancels what nobody wrote down.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from spam_lab.config.cluster import ClusterConfig
from spam_lab.config.schema import PathsConfig
from spam_lab.orchestrate.plan import Plan
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.slurm import queue, resources
from spam_lab.orchestrate.slurm.job import ArrayOrder, SlurmJob
from spam_lab.orchestrate.slurm.ledger import ArrayRecord, Submission, make_private, submissions
from spam_lab.orchestrate.slurm.packing import JobArray
from spam_lab.orchestrate.slurm.queue import JobInfo, SlurmError
from spam_lab.orchestrate.slurm.site import partition_of
from spam_lab.orchestrate.snapshot import Snapshot, freeze, keep_with_run

if TYPE_CHECKING:
    import submitit

CHECKOUT = Path(__file__).resolve().parents[3]
RAM = frozenset(("tmpfs", "ramfs", "devtmpfs", "overlay"))
"""File systems that other nodes cannot see."""


def settle(root: Path, jobs: Mapping[str, JobInfo]) -> list[str]:
    """Look after earlier submissions: cancel what was never written down, close what has ended.

    Returns:
        One line for each array that was cancelled.
    """
    told = []
    named: dict[str, list[str]] | None = None
    for submission in submissions(root):
        if not submission.is_open:
            continue
        for array in submission.arrays:
            if array.job_ids:
                continue
            named = queue.named_jobs() if named is None else named
            stray = named.get(array.name, [])
            if stray:
                queue.cancel(stray)
                told.append(f"cancelled job {', '.join(stray)} of an interrupted submission")
        submission.arrays = [array for array in submission.arrays if array.job_ids]
        ids = [job_id for array in submission.arrays for job_id in array.job_ids]
        if not any(job_id in jobs and jobs[job_id].is_live for job_id in ids):
            submission.is_open = False
        submission.write()
    return told


def check_arrays(arrays: Sequence[JobArray]) -> None:
    """Have SLURM look at one job of each kind, without submitting any.

    Raises:
        ConfigError: a value that must not reach a job script.
        SlurmError: SLURM would refuse the job; its own words, and the key to look at.
    """
    for array in arrays:
        resources.check(array.cluster)
        _require_time(array.cluster)
    for cluster, side_by_side in {_key(a): (a.cluster, a.side_by_side) for a in arrays}.values():
        with tempfile.TemporaryDirectory(prefix="spam_lab_") as scratch:
            executor = _executor(Path(scratch), cluster, side_by_side, "check", {})
            script = Path(scratch) / "check.sh"
            script.write_text(executor._make_submission_file_text("true", "check"))
            with _outside_of_jobs():
                _require_accepted(script, cluster, side_by_side)


def submit(
    plan: Plan,
    arrays: Sequence[JobArray],
    host: Host,
    overrides: Sequence[str],
    checkout: Path = CHECKOUT,
) -> Submission:
    """Write the run directories, freeze the code, and hand every array to SLURM.

    Args:
        plan: what to train.
        arrays: its due runs, packed and checked.
        host: how they are trained; each array has its own `cluster`.
        overrides: the command line, for the sweep's manifest.
        checkout: the code to freeze.

    Raises:
        SlurmError: SLURM refused an array; those before it are cancelled.
        SnapshotError: the code cannot be frozen.
    """
    root = plan.root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    scale = plan.entries[0].config.scale.name
    submission = Submission.new(root, plan.name, scale)
    frozen = freeze(checkout, root)
    plan.write(overrides)
    for entry in plan.due:
        keep_with_run(frozen, plan.directory(entry).path)
    for number, array in enumerate(arrays):
        name = f"spam_lab-{plan.name or 'runs'}-{submission.name}-{number}"
        record = ArrayRecord(name, list(array.run_ids), list(array.bounds), array.jobs)
        order = ArrayOrder(
            root,
            array.run_ids,
            array.bounds,
            array.jobs,
            dataclasses.replace(host, cluster=array.cluster, paths=_absolute(host)),
            array.side_by_side,
        )
        order.write(submission.order_path(number))
        submission.arrays.append(record)
    submission.write()  # from here on an interrupted submission can be seen as one
    make_private(submission.jobs_folder)
    try:
        for number, (array, record) in enumerate(zip(arrays, submission.arrays, strict=True)):
            path = str(submission.order_path(number))
            work = [SlurmJob(path, index) for index in range(array.jobs)]
            record.job_ids = hand_over(submission, array, record.name, frozen, work)
            submission.write()
    except (SlurmError, KeyboardInterrupt):
        queue.cancel([r.job_ids[0].partition("_")[0] for r in submission.arrays if r.job_ids])
        submission.is_open = False
        submission.write()
        raise
    return submission


def warnings(root: Path) -> list[str]:
    """What looks wrong about the folder of runs, a line each: jobs on other nodes must see it."""
    kind = _file_system(root)
    if kind in RAM:
        return [
            f"warning: {root} is on {kind}, which other nodes usually cannot see: jobs would fail "
            "at once. Give a shared folder, paths.runs=... (spam-lab doctor tries it)"
        ]
    return []


def hand_over(
    submission: Submission,
    array: JobArray,
    name: str,
    frozen: Snapshot,
    work: Sequence[Callable[[], str]],
) -> list[str]:
    """Give one array to SLURM, a job for each of `work`; the job ids.

    Raises:
        SlurmError: SLURM refuses it.
    """
    environment = {"PYTHONPATH": str(frozen.path), "PYTHONSAFEPATH": "1"}
    executor = _executor(
        submission.jobs_folder, array.cluster, array.side_by_side, name, environment
    )
    try:
        with _outside_of_jobs(), executor.batch():
            jobs = [executor.submit(job) for job in work]
        return [str(job.job_id) for job in jobs]
    except Exception as error:  # submitit raises its own and subprocess' errors
        said = _said(error)
        full = "temporarily unavailable" in said or "Limit" in said
        hint = ". The queue is full for you: try later, or fewer jobs (cluster.runs_per_job, jobs)"
        raise SlurmError(f"SLURM refused the jobs: {said}{hint if full else ''}") from None


def _executor(
    folder: Path,
    cluster: ClusterConfig,
    side_by_side: int,
    name: str,
    environment: Mapping[str, str],
) -> submitit.SlurmExecutor:
    import submitit  # takes a moment, and only submitting needs it

    executor = submitit.SlurmExecutor(folder, max_num_timeout=resources.EVERY_SIGNAL)
    asked = resources.submitit_parameters(cluster, side_by_side, name)
    lines = [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
    executor.update_parameters(**asked | {"setup": [*asked.get("setup", []), *lines]})
    return executor


def _require_time(cluster: ClusterConfig) -> None:
    """Many sites take a job that its partition never starts, and let it wait forever."""
    partition = partition_of(cluster.partition)
    limit = partition.minutes if partition else None
    if partition is not None and limit is not None and limit < cluster.time:
        raise SlurmError(
            f"the jobs ask for {cluster.time} min, and partition {partition.name} gives at most "
            f"{limit}: cluster.time={limit}, or another partition. Nothing was submitted"
        )


def _require_accepted(script: Path, cluster: ClusterConfig, side_by_side: int) -> None:
    """Ask SLURM about a job script; refuse what it refuses."""
    try:
        ran = subprocess.run(
            ["sbatch", "--test-only", str(script)],
            capture_output=True,
            text=True,
            check=False,
            timeout=queue.SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"sbatch does not answer: {error}") from None
    if not ran.returncode:
        return
    lines = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
    said = "; ".join(line.removeprefix("allocation failure: ") for line in lines)
    # Said too while all nodes that would do are down, and then the jobs may wait for them.
    down = "node configuration is not available" in said
    if not (down and resources.some_node_would_do(cluster, side_by_side)):
        raise SlurmError(
            f"SLURM would refuse these jobs: {said or 'no reason given'}. Nothing was submitted. "
            "Look at cluster.* (partition, account, qos, time, nodes, gpus, cpus, memory, "
            "constraint, flags)"
        )


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without the variables of a job that this command may itself run in: sbatch would obey them.

    SLURM_CONF stays: it says which cluster is meant.
    """
    kept = {"SLURM_CONF", "SLURM_CLUSTERS"}
    own = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) and name not in kept
    }
    for name in own:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(own)


def _absolute(host: Host) -> PathsConfig:
    paths = host.paths
    return dataclasses.replace(
        paths, runs=str(Path(paths.runs).resolve()), cache=str(Path(paths.cache).resolve())
    )


def _key(array: JobArray) -> str:
    return repr((dataclasses.replace(array.cluster, max_jobs=None), array.side_by_side))


def _said(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "error" in line.lower()]
    return (lines or str(error).splitlines() or [type(error).__name__])[-1].strip()


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`; empty where it cannot be known."""
    best, kind = "", ""
    for part in psutil.disk_partitions(all=True):
        place = part.mountpoint.rstrip("/") + "/"
        if f"{path.resolve()}/".startswith(place) and len(place) > len(best):
            best, kind = place, part.fstype
    return kind
