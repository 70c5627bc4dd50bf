"""What the doctor says of SLURM: commands, controller, partitions, whether it would take a job of
the lab's, and, with one real job, whether nodes and this computer see the same folder of runs.

It promises to cancel the job that it sends where it does not end, and to leave no file behind.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from spam_lab.commands.doctor_checks import Finding
from spam_lab.commands.doctor_checks.folder import nearest
from spam_lab.config.cluster import ClusterConfig
from spam_lab.config.fields import ConfigError
from spam_lab.orchestrate.slurm import queue, site
from spam_lab.orchestrate.slurm.packing import JobArray
from spam_lab.orchestrate.slurm.queue import LIVE, SlurmError
from spam_lab.orchestrate.slurm.site import Partition

PARTITIONS_SHOWN = 6
JOB_SECONDS = 120.0
POLL_SECONDS = 0.5
SHARED_SECONDS = 15.0
"""How long a file from a node may take to be seen here."""


def look(overrides: Sequence[str]) -> list[Finding]:
    """The findings about SLURM, without sending a job. Runs need none of it on this computer."""
    if not queue.is_here():
        return [Finding("SLURM", "not here; cluster=local trains on this computer")]
    try:
        queue.require()
        about, partitions = site.version(), site.partitions()
    except SlurmError as error:
        advice = "on a login node of the cluster, see to SLURM_CONF and scontrol ping"
        return [Finding("SLURM", str(error), advice, needed=False)]
    return [
        Finding("SLURM", f"{about}, its controller answers"),
        _partitions(partitions),
        _test(overrides),
    ]


def shared_folder(runs: Path, overrides: Sequence[str]) -> Finding:
    """Send a job of a second that reads a file of the runs folder and writes one back."""
    what = "shared folder"
    if not queue.is_here():
        return Finding(what, "cannot be tried: SLURM is not here", "leave out --jobs")
    place = nearest(runs)
    try:
        cluster = _cluster(overrides)
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor_") as name:
            return _tried(Path(name), cluster, what)
    except (SlurmError, ConfigError) as error:
        return Finding(what, f"cannot be tried: {error}", "mend what it names")
    except OSError as error:
        return Finding(what, f"cannot be tried: {error.strerror}", "give --runs DIR")


def _tried(scratch: Path, cluster: ClusterConfig, what: str) -> Finding:
    word = os.urandom(8).hex()
    (scratch / "question").write_text(word)
    with (scratch / "lock").open("a") as lock:  # held until the job has tried it
        fcntl.flock(lock, fcntl.LOCK_EX)
        job_id = _send(scratch, cluster)
        state = _wait(scratch, job_id)
    answer = scratch / "answer"
    lines = answer.read_text().splitlines() if answer.exists() else []
    if state in LIVE:
        why = next((str(job) for job in queue.own_jobs() if job.job_id == job_id), state)
        queue.cancel([job_id])
        told = f"job {job_id} did not end within {JOB_SECONDS:.0f} s ({why}) and was cancelled"
        return Finding(what, told, "the queue is long: try again later", needed=False)
    if not lines:
        return Finding(
            what,
            f"job {job_id} ended ({state}) and no file of its is seen in {scratch.parent}",
            "give a folder that all nodes share: --runs DIR, SPAM_LAB_RUNS=DIR or paths.runs=DIR",
        )
    node, read, python = (*lines, "", "")[:3]
    if read != word:
        return Finding(what, f"{node} read something else there", "give another --runs DIR")
    if python != "locked":
        problem = (
            "a file locked here is not locked there: two workers could take one run"
            if python == "unlocked"
            else f"Python does not start there: {python or 'no word of it'}"
        )
        advice = (
            "mount it with locks on all nodes, or give another --runs DIR"
            if python == "unlocked"
            else f"{sys.executable} and this installation must be there on all nodes; put both on "
            "a shared folder, or load what they need with cluster.setup"
        )
        return Finding(what, f"{node} sees it, but {problem}", advice)
    return Finding(what, f"{node} reads and writes it, its locks hold, Python starts there")


# The node's name, what it reads, and whether it is kept from a lock that is held here.
_SCRIPT = """\
#!/bin/sh
cd {scratch} || exit 3
{{ echo "${{SLURMD_NODENAME:-$(hostname)}}"; cat question; echo
{python} -c '
import fcntl, spam_lab
try:
    fcntl.flock(open("lock", "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("unlocked")
except BlockingIOError:
    print("locked")
' 2>&1 | tail -n 1; }} > part && mv part answer
"""


def _send(scratch: Path, cluster: ClusterConfig) -> str:
    script = scratch / "script"
    script.write_text(
        _SCRIPT.format(scratch=shlex.quote(str(scratch)), python=shlex.quote(sys.executable))
    )
    command = ["sbatch", "--parsable", "--job-name=spam_lab-doctor", "--time=2", "--nodes=1"]
    command += ["--ntasks=1", f"--output={scratch / 'out'}", "--no-requeue"]
    for option in ("partition", "account", "qos", "constraint"):
        value = getattr(cluster, option)
        command += [f"--{option}={value}"] if value else []
    return queue.run([*command, str(script)]).strip().partition(";")[0]


def _wait(scratch: Path, job_id: str) -> str:
    """The job's state when it has ended or its time here is up; waits for what it wrote, too."""
    end = time.monotonic() + JOB_SECONDS
    state = "PENDING"
    try:
        while time.monotonic() < end:
            state = queue.raw_job_state(job_id) or state
            if state not in LIVE:
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        queue.cancel([job_id])
        raise
    end = time.monotonic() + SHARED_SECONDS
    while state == "COMPLETED" and time.monotonic() < end:
        if "answer" in os.listdir(scratch):  # listing makes NFS look again
            break
        time.sleep(POLL_SECONDS)
    return state


def _partitions(known: Sequence[Partition]) -> Finding:
    found = []
    for one in known:
        default = ", default" if one.default else ""
        has = f", {one.gres}" if one.gres else ""
        down = "" if one.up == "up" else f", {one.up}"
        found.append(f"{one.name} (at most {one.limit}, {one.nodes} nodes{has}{default}{down})")
    more = f"; and {len(found) - PARTITIONS_SHOWN} more" if len(found) > PARTITIONS_SHOWN else ""
    if not found:
        return Finding("partitions", "none that you may use", "ask the site", needed=False)
    return Finding("partitions", "; ".join(found[:PARTITIONS_SHOWN]) + more)


def _test(overrides: Sequence[str]) -> Finding:
    """Whether SLURM would take a job of the lab's; none is left in the queue."""
    from spam_lab.orchestrate.slurm.submit import check_arrays

    what = "a job"
    try:
        cluster = _cluster(overrides)
        check_arrays([JobArray(cluster, ("run",), (0, 1), 1, 1, "doctor")])
    except ImportError as error:
        return Finding(what, str(error), "pip install -c constraints.txt -e .", needed=False)
    except ConfigError as error:
        return Finding(what, str(error), "mend the overrides given to doctor")
    except SlurmError as error:
        advice = "give them, also to doctor: spam-lab doctor cluster.partition=... cluster.time=..."
        return Finding(what, str(error), advice, needed=False)
    gpus = f"{cluster.gpus} GPU{'' if cluster.gpus == 1 else 's'}"
    where = f" in {cluster.partition}" if cluster.partition else ""
    return Finding(what, f"SLURM would take one with {gpus} for {cluster.time} min{where}")


def _cluster(overrides: Sequence[str]) -> ClusterConfig:
    from spam_lab.config.compose import compose_run

    own = [] if any(o.startswith("cluster=") for o in overrides) else ["cluster=slurm"]
    return compose_run([*own, *overrides]).cluster
