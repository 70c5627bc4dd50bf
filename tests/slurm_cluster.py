"""A real SLURM cluster on this machine for one test session: started, broken, mended, removed.

`Cluster.start` brings up munged, slurmctld and one slurmd a node with fake GPUs, all on 127.0.0.1
and below one short folder, as root or as an ordinary user. It returns when every node is idle.
`stop` leaves neither a process nor a file behind; it runs at exit, and the next start sweeps what a
killed test session left. Partitions: `main` (default, preemptable), `high` (preempts `main`) and
`short` (at most a minute).
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import psutil

from tests.slurm_accounting import start_accounting
from tests.slurm_config import Accounting, Ports, Settings, write
from tests.slurm_processes import (
    NODE,
    ClusterError,
    destroy,
    environ_of,
    make_folder,
    members,
    spawn,
    sweep,
    until,
)

USABLE = {"idle", "mixed", "allocated"}
# A session inside somebody's SLURM job, or with defaults of its own, would change what jobs get.
FOREIGN = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_")


class Cluster:
    """A running cluster; use `Cluster.start`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder: Path
        self.folder, self._lock = make_folder()
        self._owner = os.getpid()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        atexit.register(self.stop)

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

    # --- Using it

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this cluster."""
        found = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        if self.settings.accounting == "shim":
            found["PATH"] = f"{self.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        return found

    def run(
        self, *command: str, stdin: str | None = None, cwd: Path | None = None, seconds: float = 60
    ) -> str:
        """What a SLURM command prints; ClusterError with what it says when it fails."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        try:
            done = subprocess.run(
                command,
                env={**clean, **self.environment},
                cwd=cwd or self.folder,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{' '.join(command)} hung for {seconds:.0f} s") from error
        if done.returncode:
            said = (done.stderr + done.stdout).strip()
            raise ClusterError(f"{' '.join(command)} exited with {done.returncode}: {said}")
        return done.stdout

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
            nonlocal seen
            try:
                seen = self.states(job_id)
            except ClusterError as error:  # a controller that restarts does not answer
                seen = [str(error)]
            return bool(seen) and set(seen) <= wanted

        until(
            reached,
            seconds,
            lambda: f"job {job_id} is {', '.join(seen)}, not {wanted}\n{self.logs()}",
        )
        return seen[0]

    def restarts(self, job_id: str) -> int:
        """How often a job was requeued."""
        found = re.search(r"Restarts=(\d+)", self.run("scontrol", "show", "job", "-o", job_id))
        return int(found[1]) if found else 0

    def start_now(self, job_id: str, seconds: float = 60) -> None:
        """Skip the wait of a job that is being requeued: wait until it is pending, then start it.

        A job that was requeued and has started again meanwhile needs nothing. A node that ended the
        job refuses credentials of that same second, and the job would be FAILED: the next second is
        waited for.
        """
        before = self.restarts(job_id)
        pending_since: int | None = None

        def started() -> bool:
            nonlocal pending_since
            state = self.states(job_id)[0]
            if state == "RUNNING":
                return self.restarts(job_id) > before
            if state != "PENDING":
                return False
            pending_since = pending_since or int(time.time())
            if int(time.time()) <= pending_since:
                return False
            self.run("scontrol", "update", f"JobId={job_id}", "StartTime=now")
            return True

        until(started, seconds, lambda: f"job {job_id} is not requeued: {self.states(job_id)}")

    def job_pids(self, job_id: str) -> list[int]:
        """The processes of a job (13) or of an array's task (13_1), as their environments tell."""
        return [p.pid for p in members(self.folder) if job_id in _job_names(p)]

    # --- Breaking and mending it

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
            seen = self._node_flags(name)
            return seen <= USABLE if state is None else state in seen

        what = state or "usable"
        until(reached, seconds, lambda: f"{name} is {sorted(seen)}, not {what}\n{self.logs()}")

    def kill_node(self, name: str) -> None:
        """A node dies: its slurmd, the steps and the jobs' processes, at one instant."""
        destroy(lambda: members(self.folder, name))
        self._reap(f"slurmd.{name}")

    def start_node(self, name: str) -> None:
        """Start a node's slurmd again and wait until the node is usable."""
        if not self._alive(f"slurmd.{name}"):
            self._start_slurmd(name)
        self.resume(name)

    def down(self, name: str) -> None:
        """Tell the controller that a node is down; it ends the node's jobs at once."""
        self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=test")

    def resume(self, name: str) -> None:
        """Use a node again that was down; its slurmd must be running."""
        # It may come back by itself in between, when there is nothing to resume.
        if self._node_flags(name) & {"down", "drain", "fail"}:
            self._quietly("scontrol", "update", f"NodeName={name}", "State=RESUME")
        self.wait_node(name)

    def kill_controller(self) -> None:
        """The controller crashes. What it learned after its last save (see `save`) is lost."""
        controller = self._daemons.pop("slurmctld")
        found = [p for p in members(self.folder) if p.info["name"] in ("slurmctld", "slurmscriptd")]
        destroy(lambda: [p for p in members(self.folder) if p in found])
        controller.wait()

    def start_controller(self) -> None:
        """Start the controller again and wait until it answers."""
        if not self._alive("slurmctld"):
            self._daemons["slurmctld"] = spawn(
                self.folder, "slurmctld", ["slurmctld", "-D", "-f", str(self._conf)]
            )
        self._wait_for_daemon("slurmctld", self._controller_answers)

    def save(self, job_id: str) -> None:
        """Wait until the controller has written to disk how this job stands now."""
        marker = f"saved-{time.time_ns()}"
        self.run("scontrol", "update", f"JobId={job_id}", f"AdminComment={marker}")
        state = self.folder / "ctld" / "job_state"

        def written() -> bool:
            try:
                return marker.encode() in state.read_bytes()
            except FileNotFoundError:
                return False

        until(written, 60, lambda: f"the controller does not save its state\n{self.logs()}")

    def cancel_all(self) -> None:
        """End all jobs; their processes are killed, as they may ignore what SLURM sends."""
        ids = set(self.run("squeue", "-a", "-h", "-o", "%A").split())
        if not ids:
            return
        self.run("scancel", "-Q", *ids)
        until(self._queue_is_empty, 60, lambda: f"jobs do not end\n{self.logs()}")

    def restore(self) -> None:
        """Make it as good as new after a test: daemons run, no job is left, every node is idle."""
        if not self._alive("munged"):
            raise ClusterError("munged has died")
        self.start_controller()
        for name in self.settings.names:
            if not self._alive(f"slurmd.{name}"):
                self._start_slurmd(name)
        self.cancel_all()
        for name in self.settings.names:
            self.resume(name)

    def stop(self) -> None:
        """Kill every process of the cluster, make sure of it, and remove the folder."""
        if os.getpid() != self._owner:  # a forked child runs its parent's exit handlers
            return
        atexit.unregister(self.stop)
        destroy(lambda: members(self.folder))
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def logs(self) -> str:
        """The last lines of every log, for the message of what went wrong."""
        parts = []
        for path in sorted((self.folder / "log").glob("*")):
            lines = path.read_text(errors="replace").splitlines()[-8:]
            parts.append("\n".join([f"--- {path.name}", *lines]))
        return "\n".join(parts)

    # --- Starting

    @property
    def _conf(self) -> Path:
        return self.folder / "slurm.conf"

    def _bring_up(self) -> None:
        ports = Ports.free(self.settings.nodes)
        write(self.folder, self.settings, ports)
        self._start_munge()
        if self.settings.accounting == "slurmdbd":
            self._daemons |= start_accounting(self.folder, ports, self.run)
        self._daemons["slurmctld"] = spawn(
            self.folder, "slurmctld", ["slurmctld", "-D", "-f", str(self._conf)]
        )
        for name in self.settings.names:
            self._start_slurmd(name)
        self._wait_for_daemon("slurmctld", self._controller_answers)
        for name in self.settings.names:
            self._wait_for_daemon(f"slurmd.{name}", partial(self._is_idle, name))

    def _start_munge(self) -> None:
        run, secret = self.folder / "run", self.folder / "munge"
        argv = ["munged", "--foreground", "--force", "--num-threads=2"]
        argv += [f"--key-file={secret}/key", f"--seed-file={secret}/seed"]
        argv += [f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid"]
        argv += [f"--log-file={self.folder}/log/munged.log"]
        self._daemons["munged"] = spawn(self.folder, "munged", argv)
        self._wait_for_daemon("munged", (run / "munge.sock").exists)

    def _start_slurmd(self, name: str) -> None:
        argv = ["slurmd", "-D", "-f", str(self._conf), "-N", name]
        daemon = spawn(self.folder, f"slurmd.{name}", argv, {NODE: name})
        self._daemons[f"slurmd.{name}"] = daemon

    # --- Looking

    def _wait_for_daemon(self, name: str, ready: Callable[[], object]) -> None:
        def ready_or_dead() -> bool:
            if not self._alive(name):
                raise ClusterError(f"{name} has ended\n{self.logs()}")
            return bool(ready())

        until(ready_or_dead, 60, lambda: f"{name} does not get ready\n{self.logs()}")

    def _controller_answers(self) -> bool:
        return "is UP" in self._quietly("scontrol", "ping")

    def _is_idle(self, name: str) -> bool:
        return self._node_flags(name) == {"idle"}

    def _node_flags(self, name: str) -> set[str]:
        try:
            return self.node_state(name)
        except ClusterError as error:  # a controller that restarts does not answer
            return {str(error)}

    def _queue_is_empty(self) -> bool:
        destroy(lambda: [p for p in members(self.folder) if _job_names(p)])
        return self._quietly("squeue", "-a", "-h") == ""

    def _alive(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def _reap(self, name: str) -> None:
        if name in self._daemons:
            self._daemons.pop(name).wait()

    def _quietly(self, *command: str) -> str:
        """What a command prints, or what its failure says."""
        try:
            return self.run(*command)
        except ClusterError as error:
            return str(error)


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
