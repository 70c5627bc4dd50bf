"""SLURM's own account of jobs: what squeue, sacct and scontrol say, read once and kept as values.

It promises one clear message where SLURM is not there or does not answer, and no trace of SLURM's
output formats anywhere else. A site without accounting loses detail, never function.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

SECONDS = 30.0
"""How long a command of SLURM may take; it gives up on a controller by itself after 10 to 20 s."""

LIVE = frozenset(
    (
        *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"),
        *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "RESIZING"),
        *("STAGE_OUT",),
    )
)
"""States of a job that may still do something."""

ON_NODES = frozenset(("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"))
"""States in which a job's processes may be there."""


GONE = "GONE"
"""Our word for a job that SLURM does not know."""


class SlurmError(RuntimeError):
    """SLURM is not there, does not answer or refuses; the text says what and what to do."""


@dataclass(frozen=True)
class JobInfo:
    """One job or array element, as SLURM tells it.

    Attributes:
        job_id: as people write it: 12, or 12_3 for element 3 of an array.
        state: SLURM's word: PENDING, RUNNING, NODE_FAIL, ...
        reason: why it waits, or how it ended.
        node: where it runs or ran; empty before.
        exit_code: as sacct tells it, code:signal; empty where unknown.
    """

    job_id: str
    state: str
    reason: str = ""
    node: str = ""
    exit_code: str = ""

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in LIVE

    def __str__(self) -> str:
        told = [self.state]
        if self.reason and self.reason not in ("None", self.state):
            told.append(f"({self.reason})")
        if self.exit_code and self.exit_code != "0:0":
            told.append(f"exit code {self.exit_code}")
        if self.node:
            told.append(f"on {self.node}")
        return " ".join(told)


def is_here() -> bool:
    """Whether this computer has SLURM's commands."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def require() -> None:
    """Refuse to go on where there is no SLURM, or its controller does not answer.

    Raises:
        SlurmError: what is missing, and what to do.
    """
    if not is_here():
        raise SlurmError(
            "cluster=slurm, but this computer has no sbatch: run it on a login node of the "
            "cluster, or take cluster=local"
        )
    try:
        run(["scontrol", "ping"])
        run(["scontrol", "show", "config"])
    except SlurmError as error:
        raise SlurmError(
            f"no SLURM cluster answers here ({error}): run it on a login node, with SLURM_CONF as "
            "the cluster has it; cluster=local needs none"
        ) from None


def own_jobs() -> list[JobInfo]:
    """Every job of this user that SLURM still knows of, array elements one by one."""
    form = "%i|%T|%r|%N"
    lines = run(["squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", form])
    return [_from_squeue(line) for line in lines.splitlines() if line.count("|") == 3]


def named_jobs() -> dict[str, list[str]]:
    """The array job ids of this user's live jobs, by job name."""
    lines = run(["squeue", "-h", "-u", str(os.getuid()), "-o", "%F|%j"]).splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        job_id, _, name = line.partition("|")
        if job_id not in found.setdefault(name, []):
            found[name].append(job_id)
    return found


def raw_job_state(raw_job_id: str) -> str | None:
    """The state of one job by its raw id; None where SLURM cannot be asked.

    A job that SLURM does not know, or not any more, is `GONE`.
    """
    try:
        lines = run(["squeue", "-h", "-t", "all", "-j", raw_job_id, "-o", "%T"]).split()
    except SlurmError as error:
        return GONE if "Invalid job id" in str(error) else None
    return lines[0] if lines else GONE


def ended_jobs(job_ids: Iterable[str]) -> dict[str, JobInfo]:
    """What accounting says of these jobs, array elements one by one; empty without accounting."""
    asked = sorted({job_id.partition("_")[0] for job_id in job_ids})
    if not asked or shutil.which("sacct") is None:
        return {}
    command = ["sacct", "-n", "-X", "--parsable2", "-o", "JobID,State,ExitCode,NodeList"]
    try:
        lines = run([*command, "-j", ",".join(asked)]).splitlines()
    except SlurmError:
        return {}
    found = {}
    for line in lines:
        parts = line.split("|")
        state, _, reason = parts[1].partition(" ") if len(parts) > 1 else ("", "", "")
        if not state or "[" in parts[0]:
            continue
        exit_code, node = (parts[2], parts[3]) if len(parts) >= 4 else ("", parts[-1])
        node = "" if node.startswith("None") else node
        found[parts[0]] = JobInfo(parts[0], state, reason, node, exit_code)
    return found


def requeue(job_id: str) -> bool:
    """Have a running job run again later; False where SLURM refuses or does it already."""
    return _succeeds(["scontrol", "requeue", job_id])


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs, array elements or whole arrays; those that have ended are no error."""
    for start in range(0, len(job_ids), 100):  # a command line has its limits
        run(["scancel", "-Q", *job_ids[start : start + 100]])


def _from_squeue(line: str) -> JobInfo:
    job_id, state, reason, node = line.split("|")
    return JobInfo(job_id, state, "" if reason == "None" else reason, node)


def _succeeds(command: Sequence[str]) -> bool:
    try:
        run(command)
    except SlurmError:
        return False
    return True


def run(command: Sequence[str]) -> str:
    """What a command of SLURM prints.

    Raises:
        SlurmError: it is not there, does not answer, or fails; its first words.
    """
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=plain_environment(os.environ),
        )
    except FileNotFoundError:
        raise SlurmError(f"this computer has no {command[0]}: is SLURM installed here?") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"{command[0]} did not answer within {SECONDS:.0f} s: is SLURM's controller up "
            "(scontrol ping), and does SLURM_CONF name a file that is there?"
        ) from None
    if ran.returncode:
        said = (ran.stderr.strip() or ran.stdout.strip()).splitlines() or ["no reason given"]
        what = " ".join(part for part in command[:2] if not part.startswith("-"))
        told = said[0].removeprefix(f"{command[0]}: ").removeprefix("error: ")
        raise SlurmError(f"{what}: {told}")
    return ran.stdout


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what changes SLURM's commands: users' formats, and a job's own
    variables, but for those that say which cluster is meant."""
    return {
        name: value
        for name, value in environment.items()
        if name in ("SLURM_CONF", "SLURM_CLUSTERS")
        or not re.match(r"(SQUEUE|SACCT|SBATCH|SCONTROL|SINFO|SRUN|SLURMD?)_", name)
    }
