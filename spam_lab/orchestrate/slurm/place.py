"""Where this process runs: the node, and the SLURM job, attempt and rank if it is inside one.

It promises names that tell the nodes of a cluster apart, and reads nothing but the environment.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A node and, inside a job, the job.

    Attributes:
        host: the node's name, as SLURM says it inside a job.
        job: the job as people write it, 12 or 12_3; empty outside one.
        raw_job: SLURM's own number of the job, which a requeue does not change; empty outside one.
        restart: how often the job has been requeued.
        rank, ranks: which of the step's processes this is, and how many there are.
        local_rank: which of this node's.
    """

    host: str
    job: str = ""
    raw_job: str = ""
    restart: int = 0
    rank: int = 0
    ranks: int = 1
    local_rank: int = 0

    @classmethod
    def here(cls) -> Place:
        """This process's place."""
        variables = os.environ
        raw = variables.get("SLURM_JOB_ID", "")
        # An interactive job's shell has a job id but no process of a step: it is not ours.
        if not raw or "SLURM_PROCID" not in variables:
            return cls(socket.gethostname())
        array, index = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
        return cls(
            host=variables.get("SLURMD_NODENAME") or socket.gethostname(),
            job=f"{array}_{index}" if array else raw,
            raw_job=raw,
            restart=int(variables.get("SLURM_RESTART_COUNT", "0")),
            rank=int(variables["SLURM_PROCID"]),
            ranks=int(variables.get("SLURM_NTASKS", "1")),
            local_rank=int(variables.get("SLURM_LOCALID", "0")),
        )
