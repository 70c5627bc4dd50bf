"""Where runs are dispatched to: the typed base of conf/cluster, and what a SLURM job asks for.

None of it changes a run's numbers, so none of it is part of a run's identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spam_lab.config.fields import choice, mapping, number, text, texts


@dataclass
class ClusterConfig:
    """Where runs are dispatched to, and what a SLURM job asks for.

    None of it is part of a run's identity. A sweep's cell may set these keys too: a larger model
    asks for more. What the command line gives wins over the cell.
    """

    name: str = choice(
        "local",
        ("local", "inline", "slurm"),
        doc="local: worker processes here; inline: this process; slurm: jobs of a SLURM cluster",
    )
    workers: int | None = number(None, low=1, doc="local: worker processes; null takes one a core")
    threads: int = number(1, low=1, doc="CPU threads a worker")
    partition: str | None = text(None, doc="slurm: partition; null is the site's default")
    account: str | None = text(None, doc="slurm: account that is charged")
    qos: str | None = text(None, doc="slurm: quality of service")
    constraint: str | None = text(None, doc="slurm: features that a node must have, e.g. h100")
    time: int = number(
        240,
        low=1,
        unit="minutes",
        doc="slurm: time limit of a job; a run that needs longer goes on",
    )
    nodes: int = number(1, low=1, doc="slurm: nodes that train one run together")
    gpus: int = number(0, low=0, doc="slurm: GPUs a node")
    processes: int | None = number(
        None,
        low=1,
        doc="slurm: processes a node that train one run together; null is 1, or with "
        "several GPUs a node, one a GPU unless runs are trained side by side",
    )
    cpus: int | None = number(
        None, low=1, doc="slurm: cores a process; null is enough for its threads"
    )
    memory: float | None = number(
        None,
        low=0,
        low_open=True,
        unit="GB",
        doc="slurm: memory a node; null is the site's default",
    )
    flags: dict[str, Any] = mapping(
        doc="slurm: further sbatch options by long name, e.g. {exclude: node7, exclusive: true}"
    )
    setup: list[str] = texts(
        doc="slurm: shell lines run before Python, e.g. [module load cuda]; they are trusted"
    )
    signal_seconds: int = number(
        90, low=10, unit="seconds", doc="slurm: how long before its end a job is told to stop"
    )
    max_jobs: int | None = number(
        None, low=1, doc="slurm: jobs of a job array that run at the same time; null is no limit"
    )
    runs_per_job: int | None = number(
        None,
        low=1,
        doc="slurm: runs a job trains one after the other; null lets the plan decide "
        "from measured speed",
    )
    side_by_side: int | None = number(
        None,
        low=1,
        doc="slurm: runs a job trains at the same time, sharing its GPUs; null lets "
        "the plan decide from measured memory",
    )
    gpu_memory: float | None = number(
        None,
        low=0,
        low_open=True,
        unit="GB",
        doc="slurm: memory of one GPU; needed for the plan to decide on side_by_side",
    )
    jobs: int | None = number(
        None,
        low=1,
        doc="slurm: this many jobs, each of which claims the next waiting run until "
        "its time is nearly up; null hands every job its own runs",
    )
    larger: dict[str, Any] = mapping(
        doc="slurm: what larger models ask for, by scale and model: a table that YAML looks up"
    )
