"""What a SLURM site has: its limits, partitions and kinds of nodes.

With `queue`, the only file that reads what SLURM prints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from spam_lab.orchestrate.slurm.queue import run


def config() -> dict[str, str]:
    """SLURM's configuration, `scontrol show config`, by name."""
    pairs = (line.partition("=") for line in run(["scontrol", "show", "config"]).splitlines())
    return {key.strip(): value.strip() for key, sep, value in pairs if sep}


def max_array_size() -> int:
    """SLURM's MaxArraySize: an array's indices stay below it."""
    return int(config().get("MaxArraySize", "1001"))


@dataclass(frozen=True)
class NodeKind:
    """What a node has: cores, memory in MB, GPUs."""

    cpus: int
    memory_mb: int
    gpus: int


def node_kinds(partition: str | None) -> set[NodeKind]:
    """The kinds of nodes of a partition, whatever state they are in; of all where none is named."""
    which = ["-p", partition] if partition else []
    lines = run(["sinfo", "-h", "-N", "-o", "%c|%m|%G", *which]).splitlines()
    found = set()
    for line in lines:
        cpus, memory, gres = line.split("|")
        gpus = sum(int(n) for n in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres))
        found.add(NodeKind(int(cpus), int(memory), gpus))
    return found


@dataclass(frozen=True)
class Partition:
    """One partition.

    Attributes:
        name: its name.
        default: whether jobs that name none go there.
        up: whether it starts jobs: "up", or SLURM's word.
        limit: the longest time of a job, as SLURM prints it: 2-12:30:00, infinite.
        nodes: how many nodes.
        gres: their generic resources, as SLURM prints them; empty for none.
    """

    name: str
    default: bool
    up: str
    limit: str
    nodes: int
    gres: str

    @property
    def minutes(self) -> int | None:
        """The time limit in whole minutes; None where there is none."""
        days, _, clock = self.limit.rpartition("-")
        parts = clock.split(":")
        if not all(part.isdigit() for part in parts) or not 2 <= len(parts) <= 3:
            return None
        hours, minutes, _ = ["0", *parts][-3:]
        return int(days or 0) * 1440 + int(hours) * 60 + int(minutes)


def partitions() -> list[Partition]:
    """The partitions that this user may see; one of several kinds of nodes comes several times."""
    found = []
    for line in run(["sinfo", "-h", "-o", "%P|%a|%l|%D|%G"]).splitlines():
        name, up, limit, nodes, gres = line.split("|")
        shown = "" if gres == "(null)" else gres
        default = name.endswith("*")
        found.append(Partition(name.rstrip("*"), default, up, limit, int(nodes), shown))
    return found


def partition_of(name: str | None) -> Partition | None:
    """The partition of this name, or the default one; None where there is none."""
    return next((p for p in partitions() if (p.name == name if name else p.default)), None)


def version() -> str:
    """SLURM's name and version."""
    return run(["sinfo", "--version"]).strip()
