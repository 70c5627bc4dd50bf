"""What a throw-away SLURM cluster is told: slurm.conf, gres.conf, slurmdbd.conf, a stand-in sacct.

Every daemon listens on one machine, nodes are pretended, waits are as short as SLURM allows. Each
line that is there for a reason of its own says which.
"""

from __future__ import annotations

import os
import pwd
import random
import re
import socket
import subprocess
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from tests.slurm_processes import ClusterError, program

Accounting = Literal["none", "shim", "slurmdbd"]

# Without these lines nothing limits a job's memory. The job ends FAILED, not OUT_OF_MEMORY.
MEMORY_LIMIT = (
    "JobAcctGatherType=jobacct_gather/linux",
    "JobAcctGatherFrequency=task=1",
    "JobAcctGatherParams=OverMemoryKill",
)


@dataclass(frozen=True)
class Settings:
    """What the caller of `Cluster.start` chooses."""

    nodes: int = 3
    gpus: int = 2  # a node's
    cpus: int = 4  # a node's
    memory_mb: int = 4000  # a node's
    accounting: Accounting = "none"
    max_array_size: int | None = None
    grace_seconds: int = 15  # between a preempted job's signal and its end
    preempt_signal: bool = True  # a preempted job gets the signal it asked for with --signal
    extra: tuple[str, ...] = ()  # lines of slurm.conf; one that is there already is replaced

    @property
    def names(self) -> list[str]:
        """n1, n2, ..."""
        return [f"n{k}" for k in range(1, self.nodes + 1)]


@dataclass(frozen=True)
class Ports:
    """One port a daemon, from a stretch that was free a moment ago."""

    base: int = field(default=0)

    @classmethod
    def free(cls, nodes: int) -> Ports:
        """A stretch below the kernel's ephemeral ports, where clients would come to listen."""
        for _ in range(100):
            base = random.SystemRandom().randrange(15_000, 31_000)
            if all(_is_free(base + offset) for offset in range(3 + nodes)):
                return cls(base)
        raise OSError("no free ports between 15000 and 31000")

    @property
    def controller(self) -> int:
        """Of slurmctld."""
        return self.base

    @property
    def slurmdbd(self) -> int:
        """Of slurmdbd."""
        return self.base + 1

    @property
    def database(self) -> int:
        """Of MariaDB."""
        return self.base + 2

    def node(self, index: int) -> int:
        """Of the slurmd of node `index`, from 0."""
        return self.base + 3 + index


def write(folder: Path, settings: Settings, ports: Ports) -> None:
    """Write all files of a cluster into its empty folder."""
    for name in ("run", "log", "munge", "ctld", "bin", "dev", "spool"):
        (folder / name).mkdir()
    for name in settings.names:
        (folder / "spool" / name).mkdir()
    (folder / "munge").chmod(0o700)
    (folder / "munge" / "key").touch(0o600)
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    (folder / "slurm.conf").write_text(slurm_conf(folder, settings, ports))
    (folder / "gres.conf").write_text(gres_conf(folder, settings))
    (folder / "cgroup.conf").write_text(cgroup_conf())
    if settings.accounting == "shim":
        (folder / "bin" / "sacct").write_text(SACCT)
        (folder / "bin" / "sacct").chmod(0o755)
    if settings.accounting == "slurmdbd":
        (folder / "slurmdbd.conf").touch(0o600)
        (folder / "slurmdbd.conf").write_text(slurmdbd_conf(folder, ports))


def user() -> str:
    """Who runs the cluster: the invoking user."""
    return pwd.getpwuid(os.getuid()).pw_name


@cache
def version() -> tuple[int, int]:
    """The year and month of the installed SLURM."""
    said = subprocess.run(
        [program("slurmctld") or "slurmctld", "-V"], capture_output=True, text=True
    )
    found = re.search(r"(\d+)\.(\d+)", said.stdout)
    if found is None:
        raise ClusterError(f"slurmctld does not tell its version: {said.stdout}{said.stderr}")
    return int(found[1]), int(found[2])


def slurm_conf(folder: Path, settings: Settings, ports: Ports) -> str:
    """The controller's, the nodes' and the clients' configuration."""
    host = socket.gethostname().split(".")[0]
    values = {
        "ClusterName": "lab",
        "SlurmctldHost": f"{host}(127.0.0.1)",  # slurmctld refuses a name that is not the host's
        "SlurmctldPort": ports.controller,
        "SlurmUser": user(),
        "SlurmdUser": user(),
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        # A requeued job waits until its credential has expired, plus a second; 5 is the least that
        # is taken, and without it the wait is two minutes.
        "AuthInfo": f"socket={folder}/run/munge.sock,cred_expire=5",
        "StateSaveLocation": f"{folder}/ctld",
        "SlurmdSpoolDir": f"{folder}/spool/%n",
        "SlurmctldPidFile": f"{folder}/run/slurmctld.pid",
        "SlurmdPidFile": f"{folder}/run/slurmd.%n.pid",
        "SlurmctldLogFile": f"{folder}/log/slurmctld.log",
        "SlurmdLogFile": f"{folder}/log/slurmd.%n.log",
        # No cgroups, no binding, no MPI: none of them is there in a container.
        "MpiDefault": "none",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "SwitchType": "switch/none",
        # Believe this file, not the hardware, or a node with more CPUs than the host is INVAL.
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 2,  # a node that comes back is used again
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "DefMemPerCPU": 100,  # without it, a job takes a node's whole memory
        "SchedulerType": "sched/backfill",
        # Jobs start at once, not at the next tick of some seconds.
        "SchedulerParameters": "batch_sched_delay=0,sched_min_interval=0,sched_interval=1,"
        "bf_interval=1,default_queue_depth=1000,partition_job_depth=1000,max_rpc_cnt=0",
        "PriorityType": "priority/basic",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "JobRequeue": 1,
        "MaxJobCount": 20_000,
        # submitit names files by job id: a fresh cluster must not give old numbers again.
        "FirstJobId": int(time.time()) % 60_000 * 1000 + 1,
        "KillWait": 2,
        "CompleteWait": 0,
        "OverTimeLimit": 0,
        "InactiveLimit": 0,
        "MinJobAge": 86_400,  # finished jobs stay visible; the stand-in sacct lives on it
        "SlurmctldTimeout": 10,
        "SlurmdTimeout": 10,
        "BatchStartTimeout": 30,
        "TCPTimeout": 2,
        "MessageTimeout": 10,
        "UnkillableStepTimeout": 50,  # newer versions want five times the former
        "GresTypes": "gpu",
        "AccountingStorageType": "accounting_storage/none",
    }
    if settings.preempt_signal and version() < (23, 2):
        values["SlurmctldParameters"] = "preempt_send_user_signal"
    elif settings.preempt_signal:
        values["PreemptParameters"] = "send_user_signal"
    if settings.max_array_size is not None:
        values["MaxArraySize"] = settings.max_array_size
    if settings.accounting == "slurmdbd":
        values |= {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": ports.slurmdbd,
            "AccountingStoragePass": f"{folder}/run/munge.sock",
            "AccountingStorageTRES": "gres/gpu",
        }
    values |= dict(line.split("=", 1) for line in settings.extra)
    gpus = f" Gres=gpu:{settings.gpus}" if settings.gpus else ""
    lines = [f"{key}={value}" for key, value in values.items()]
    lines += [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports.node(index)} "
        f"CPUs={settings.cpus} RealMemory={settings.memory_mb}{gpus} State=UNKNOWN"
        for index, name in enumerate(settings.names)
    ]
    lines += [
        "PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE "
        f"GraceTime={settings.grace_seconds} MaxTime=INFINITE DefaultTime=60 State=UP",
        "PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF "
        "MaxTime=INFINITE DefaultTime=60 State=UP",
        "PartitionName=short Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE "
        f"GraceTime={settings.grace_seconds} MaxTime=1 DefaultTime=1 State=UP",
    ]
    return "\n".join(lines) + "\n"


def gres_conf(folder: Path, settings: Settings) -> str:
    """Fake GPUs: SLURM wants a character device for each, and asks nothing of it."""
    files = []
    for index in range(settings.gpus):
        device = folder / "dev" / f"nvidia{index}"
        try:
            os.mknod(device, 0o600 | 0o020000, os.makedev(1, 3))
        except PermissionError:  # not root: terminals are character devices that are there anyway
            device = Path(f"/dev/tty{index}")
        files.append(str(device))
    names = ",".join(settings.names)
    return "".join(f"NodeName={names} Name=gpu File={file}\n" for file in files)


def cgroup_conf() -> str:
    """No cgroups, please.

    slurmd looks for the machine's although no plugin of these clusters uses any, and does not start
    where they are not mounted or not its user's. Before this could be said, to name version 1 kept
    it from looking.
    """
    return f"CgroupPlugin={'disabled' if version() >= (23, 11) else 'cgroup/v1'}\n"


def slurmdbd_conf(folder: Path, ports: Ports) -> str:
    """The accounting daemon's configuration; SLURM wants it private, as it has a password."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports.slurmdbd}
SlurmUser={user()}
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports.database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


# Stands in for sacct where no slurmdbd runs: the same columns, from the controller's memory. An
# option or column that it does not know is an error, not a wrong answer.
SACCT = r"""#!/bin/sh
jobs= fields=JobID,State,NodeList header=1
while [ $# -gt 0 ]; do
  case $1 in
    -j|--jobs) jobs=$jobs,$2; shift ;;
    --jobs=*) jobs=$jobs,${1#*=} ;;
    -o|--format) fields=$2; shift ;;
    --format=*) fields=${1#*=} ;;
    -n|--noheader) header= ;;
    -P|--parsable2|-X|--allocations|-D|--duplicates) ;;
    *) echo "stand-in sacct: unknown option $1" >&2; exit 2 ;;
  esac
  shift
done
format= title=
for field in $(echo "$fields" | tr , ' '); do
  case $(echo "$field" | tr A-Z a-z) in
    jobid) code=%i ;;
    jobidraw) code=%A ;;
    jobname) code=%j ;;
    state) code=%T ;;
    nodelist) code=%N ;;
    partition) code=%P ;;
    *) echo "stand-in sacct: unknown column $field" >&2; exit 2 ;;
  esac
  format="$format|$code" title="$title|$field"
done
[ -z "$header" ] || echo "${title#|}"
answer=$(squeue -a -h -r -t all ${jobs:+-j "${jobs#,}"} -o "${format#|}" 2>&1) || {
  case $answer in *"Invalid job id"*) exit 0 ;; esac
  echo "$answer" >&2
  exit 1
}
[ -z "$answer" ] || echo "$answer"
"""


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
