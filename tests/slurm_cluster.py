"""A real SLURM cluster on this machine for one test session: started, used, broken and mended.

`Cluster.start` returns when every node, with its fake GPUs, is idle. The cluster is removed at
exit, and the next start sweeps what a killed test session left. Partitions: `main` (default,
preemptable), `high` (preempts `main`) and `short` (at most a minute). Everything waits for states,
never for a time, and says what the logs say when a state does not come.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

import psutil

from tests.slurm_config import Accounting, Settings
from tests.slurm_daemons import Daemons
from tests.slurm_processes import ClusterError, destroy, environ_of, members, sweep, until

USABLE = {"idle", "mixed", "allocated"}


class Cluster(Daemons):
    """A running cluster; use `Cluster.start`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._started: dict[str, int] = {}  # job -> its requeues that `start_now` has seen

    @classmethod
    def start(
        cls,
        nodes: int = 3,
        gpus: int = 2,
        cpus: int = 4,
        memory_mb: int = 4000,
        accounting: Accounting = "none",
        max_array_size: int | None = None,
        grace_seconds: int = 15,
        preempt_signal: bool = True,
        extra: Sequence[str] = (),
    ) -> Cluster:
        """Start a cluster and wait until its nodes are idle."""
        settings = Settings(
            nodes=nodes,
            gpus=gpus,
            cpus=cpus,
            memory_mb=memory_mb,
            accounting=accounting,
            max_array_size=max_array_size,
            grace_seconds=grace_seconds,
            preempt_signal=preempt_signal,
            extra=tuple(extra),
        )
        sweep()
        for last in (False, False, True):  # another process may take a port between look and use
            cluster = cls(settings)
            try:
                cluster._bring_up()
                for name in settings.names:
                    cluster._wait_for(f"slurmd.{name}", partial(cluster._is_usable, name))
            except BaseException as error:
                cluster.stop()
                if last or not isinstance(error, ClusterError):
                    raise
            else:
                return cluster
        raise AssertionError("unreachable")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- Jobs

    def submit(self, script: str, *options: str) -> str:
        """sbatch a shell script; the job's id. Its output goes to the cluster's own folder."""
        output = f"--output={self.folder}/log/job-%j.out"
        text = f"#!/bin/sh\n{script}\n"
        return self.run("sbatch", "--parsable", output, *options, stdin=text).strip()

    def states(self, job_id: str) -> list[str]:
        """The state of a job, or of each task of an array, e.g. PENDING, RUNNING, COMPLETED."""
        found = self.run("squeue", "-a", "-h", "-r", "-t", "all", "-j", job_id, "-o", "%T")
        return found.split()

    def wait_state(self, job_id: str, states: str | Collection[str], seconds: float = 60) -> str:
        """Wait until a job (each task of an array) is in one of the states; the (first) state."""
        wanted = {states} if isinstance(states, str) else set(states)
        seen: list[str] = []

        def reached() -> bool:
            seen[:] = self.states(job_id)
            return bool(seen) and set(seen) <= wanted

        self._eventually(
            reached, seconds, lambda: f"job {job_id} is {', '.join(seen)}, not {sorted(wanted)}"
        )
        return seen[0]

    def nodes_of(self, job_id: str) -> str:
        """The nodes of a job, as SLURM writes them: n1, n[1-2]."""
        found = self.run("squeue", "-a", "-h", "-r", "-t", "all", "-j", job_id, "-o", "%N")
        return found.strip()

    def restarts(self, job_id: str) -> int:
        """How often a job was requeued."""
        found = re.search(r"Restarts=(\d+)", self.run("scontrol", "show", "job", "-o", job_id))
        return int(found[1]) if found else 0

    def start_now(self, job_id: str, restarts: int | None = None, seconds: float = 60) -> None:
        """Skip the wait of a job (or one task) that is being requeued.

        Waits until it has been requeued `restarts` times (once more with each call, if not given)
        and is pending, and lets it start. It may have started again by itself meanwhile. A node
        that ended the job refuses credentials of that same second, and the job would be FAILED: the
        next second is waited for.
        """
        wanted = self._started.get(job_id, 0) + 1 if restarts is None else restarts
        pending_since: int | None = None

        def started() -> bool:
            nonlocal pending_since
            if self.restarts(job_id) < wanted:
                return False
            if self.states(job_id) != ["PENDING"]:
                return self.states(job_id) != ["COMPLETING"]
            pending_since = pending_since or int(time.time())
            if int(time.time()) <= pending_since:
                return False
            self.run("scontrol", "update", f"JobId={job_id}", "StartTime=now")
            return True

        self._eventually(started, seconds, lambda: f"job {job_id} is not requeued")
        self._started[job_id] = wanted

    def job_pids(self, job_id: str) -> list[int]:
        """The processes of a job (13) or of an array's task (13_1), as their environments tell."""
        return [p.pid for p in members(self.folder) if job_id in _job_names(p)]

    def save(self, job_id: str) -> None:
        """Wait until the controller has written to disk how this job stands now."""
        marker = f"saved-{time.time_ns()}"
        self.run("scontrol", "update", f"JobId={job_id}", f"AdminComment={marker}")
        state = self.folder / "ctld" / "job_state"
        self._eventually(
            lambda: state.exists() and marker.encode() in state.read_bytes(),
            60,
            lambda: "the controller does not save its state",
        )

    def cancel_all(self) -> None:
        """End all jobs; their processes are killed, as they may ignore what SLURM sends."""

        def none_left() -> bool:
            found = [line.split() for line in self._queue()]
            ids = {job for job, state in found if state != "COMPLETING"}
            if ids:
                self.run("scancel", "-Q", *ids)
            if found:
                destroy(lambda: [p for p in members(self.folder) if _job_names(p)])
            return not found

        self._eventually(none_left, 60, lambda: f"jobs do not end: {self._queue()}")

    # --- Nodes

    def node_state(self, name: str) -> set[str]:
        """A node's state and its flags, e.g. idle, or down and not_responding.

        scontrol says it; sinfo calls a node mixed for long after a job from before a restart of the
        controller has gone.
        """
        answer = self.run("scontrol", "show", "node", "-o", name)
        state = re.search(r" State=(\S+)", answer)
        if state is None:
            raise ClusterError(f"scontrol says no state of {name}: {answer}")
        return set(state[1].replace("*", "+not_responding").lower().split("+"))

    def wait_node(self, name: str, state: str | None = None, seconds: float = 60) -> None:
        """Wait until a node has a state or flag; without one, until it is usable."""
        seen: set[str] = set()

        def reached() -> bool:
            nonlocal seen
            seen = self.node_state(name)
            return seen <= USABLE if state is None else state in seen

        what = state or "usable"
        self._eventually(reached, seconds, lambda: f"{name} is {sorted(seen)}, not {what}")

    def start_node(self, name: str) -> None:
        """Start a node's slurmd again and wait until the node is usable."""
        self.start_slurmd(name)
        self.resume(name)

    def down(self, name: str) -> None:
        """Tell the controller that a node is down; it ends the node's jobs at once."""
        self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=test")

    def resume(self, name: str) -> None:
        """Use a node again that was down, and wait until it is usable; its slurmd must run."""
        # It may come back by itself in between, when there is nothing to resume.
        if self.node_state(name) & {"down", "drain", "fail"}:
            try:
                self.run("scontrol", "update", f"NodeName={name}", "State=RESUME")
            except ClusterError:
                if self.node_state(name) & {"down", "drain", "fail"}:
                    raise
        self.wait_node(name)

    def restore(self) -> None:
        """Make it as good as new after a test: daemons run, no job is left, all nodes are usable.

        What cannot be mended is a ClusterError: start another cluster.
        """
        for name in self._running:
            if name in ("munged", "mariadbd") and not self.alive(name):
                raise ClusterError(f"{name} has died")
        if self.settings.accounting == "slurmdbd":
            self.start_accounting()
        self.start_controller()
        for name in self.settings.names:
            self.start_slurmd(name)
        self.cancel_all()
        for name in self.settings.names:
            self.resume(name)

    # --- Looking

    def _queue(self) -> list[str]:
        return self.run("squeue", "-a", "-h", "-o", "%A %T").splitlines()

    def _is_usable(self, name: str) -> bool:
        try:
            return self.node_state(name) <= USABLE
        except ClusterError:
            return False

    def _eventually(
        self, condition: Callable[[], bool], seconds: float, what: Callable[[], str]
    ) -> None:
        """Wait for a condition; a command that fails meanwhile, as in a restart, is asked again."""
        error = ""

        def holds() -> bool:
            nonlocal error
            try:
                return condition()
            except ClusterError as failure:
                error = f"\n{failure}"
                return False

        until(holds, seconds, lambda: f"{what()}{error}\n{self.logs()}")


def _job_names(process: psutil.Process) -> tuple[str, ...]:
    """The ids of the job that a process belongs to: its own, and of an array also 13_1."""
    environ = environ_of(process)
    if "SLURMD_NODENAME" not in environ or "SLURM_JOB_ID" not in environ:
        return ()
    own = environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_TASK_ID" not in environ:
        return (own,)
    array = environ.get("SLURM_ARRAY_JOB_ID", own)
    return (own, f"{array}_{environ['SLURM_ARRAY_TASK_ID']}")
