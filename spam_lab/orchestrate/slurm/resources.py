"""What one SLURM job asks for, worked out from `cluster.*` and handed to submitit.

It promises that no value can put a line of its own into a job script: texts with control
characters are refused by name, as are options that the lab sets itself. `cluster.setup` alone is
shell, because its user means it to be.
"""

from __future__ import annotations

import re
from typing import Any

from spam_lab.config.cluster import ClusterConfig
from spam_lab.config.fields import ConfigError, Problem
from spam_lab.orchestrate.slurm.site import node_kinds

OWN_FLAGS = frozenset(
    (
        *("array", "job-name", "output", "error", "open-mode", "signal", "requeue", "no-requeue"),
        *("ntasks", "ntasks-per-node", "wrap", "chdir", "export", "wait", "test-only", "parsable"),
        *("partition", "account", "qos", "constraint", "time", "nodes", "gpus-per-node"),
        *("cpus-per-task", "mem"),
    )
)
"""sbatch options that have a key of their own or that the lab needs for itself."""

EVERY_SIGNAL = 10**6
"""How often submitit may requeue a job whose signal comes before ours is heard: always."""


def processes(cluster: ClusterConfig) -> int:
    """Processes a node that train one run together."""
    if cluster.processes is not None:
        return cluster.processes
    alone = (cluster.side_by_side or 1) == 1
    return max(1, cluster.gpus) if alone else 1


def world_size(cluster: ClusterConfig) -> int:
    """Processes of a job that train one run together, over all its nodes."""
    return cluster.nodes * processes(cluster)


def problems(cluster: ClusterConfig) -> list[Problem]:
    """What a cluster config asks for that cannot be, or must not reach a job script."""
    found = []
    texts = {name: getattr(cluster, name) for name in ("partition", "account", "qos", "constraint")}
    texts |= {f"flags.{name}": value for name, value in cluster.flags.items()}
    for name, value in texts.items():
        if value is not None and not _one_line(str(value)):
            found.append(Problem(f"cluster.{name}", repr(value), "one line of visible text"))
    for name in cluster.flags:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", str(name)):
            found.append(Problem("cluster.flags", name, "long names of sbatch options: exclude"))
        elif name in OWN_FLAGS:
            allowed = "not for the lab's own options: there is a key for it, or the lab needs it"
            found.append(Problem("cluster.flags", name, allowed))
    for line in cluster.setup:
        if "\n" in line or "\0" in line:
            found.append(Problem("cluster.setup", repr(line), "one command an entry"))
    side_by_side = cluster.side_by_side or 1
    if side_by_side > 1 and world_size(cluster) > 1:
        allowed = "1 where several processes train one run (cluster.nodes, cluster.processes)"
        found.append(Problem("cluster.side_by_side", side_by_side, allowed))
    if cluster.jobs is not None and cluster.runs_per_job is not None:
        allowed = "null where cluster.jobs is given: such jobs claim runs until none is left"
        found.append(Problem("cluster.runs_per_job", cluster.runs_per_job, allowed))
    if cluster.signal_seconds >= cluster.time * 60:
        allowed = f"less than the time of a job, {cluster.time * 60} seconds"
        found.append(Problem("cluster.signal_seconds", cluster.signal_seconds, allowed))
    return found


def check(cluster: ClusterConfig) -> None:
    """Refuse what `problems` finds.

    Raises:
        ConfigError: naming every key, its value and what is allowed.
    """
    found = problems(cluster)
    if found:
        raise ConfigError.of(found)


def submitit_parameters(cluster: ClusterConfig, side_by_side: int, name: str) -> dict[str, Any]:
    """The keyword arguments of submitit's `update_parameters` for one job array.

    Args:
        cluster: a checked cluster config.
        side_by_side: runs that a job trains at the same time.
        name: the job's name; letters, digits, `_`, `-` and `.`.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ValueError(f"{name!r} is no job name")
    further = {key: _flag(value) for key, value in cluster.flags.items()}
    asked: dict[str, Any] = {
        "job_name": name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "time": cluster.time,
        "nodes": cluster.nodes,
        "ntasks_per_node": processes(cluster),
        "cpus_per_task": _cpus(cluster, side_by_side),
        "gpus_per_node": cluster.gpus or None,
        "mem": None if cluster.memory is None else f"{int(cluster.memory * 1024)}MB",
        "signal_delay_s": cluster.signal_seconds,
        "setup": [*cluster.setup] or None,
        # A killed rank ends by itself, the others notice, and rank 0 has the job requeued.
        "srun_args": ["--kill-on-bad-exit=0"],
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, **further},
    }
    if cluster.max_jobs is not None:
        asked["array_parallelism"] = cluster.max_jobs
    return {key: value for key, value in asked.items() if value is not None}


def some_node_would_do(cluster: ClusterConfig, side_by_side: int) -> bool:
    """Whether a node of the partition, up or down, has what a job asks of one.

    Raises:
        SlurmError: SLURM cannot be asked.
    """
    cpus = processes(cluster) * _cpus(cluster, side_by_side)
    memory = (cluster.memory or 0) * 1024
    return any(
        cpus <= kind.cpus and memory <= kind.memory_mb and cluster.gpus <= kind.gpus
        for kind in node_kinds(cluster.partition)
    )


def _cpus(cluster: ClusterConfig, side_by_side: int) -> int:
    """Cores a process."""
    return cluster.cpus or cluster.threads * side_by_side


def _flag(value: Any) -> Any:
    return str(value).lower() if value is False else value


def _one_line(value: str) -> bool:
    return bool(value) and value.isprintable()
