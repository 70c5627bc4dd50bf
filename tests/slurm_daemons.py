"""The daemons of one throw-away SLURM cluster: started in order, killed, looked at, removed.

munged, then MariaDB and slurmdbd where there is accounting, slurmctld, and one slurmd a node, all
on 127.0.0.1 and below one short folder, as root or as an ordinary user. `stop` leaves neither a
process nor a file behind.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.slurm_accounting import prepare_accounting, start_database, start_slurmdbd
from tests.slurm_config import Ports, Settings, write
from tests.slurm_processes import NODE, ClusterError, destroy, make_folder, members, spawn, until

# A session inside somebody's SLURM job, or with defaults of its own, would change what jobs get.
FOREIGN = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_")


class Daemons:
    """A cluster's folder and what runs for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder: Path
        self.folder, self._lock = make_folder()
        self._owner = os.getpid()
        self.forgetful = False  # the controller has crashed
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        atexit.register(self.stop)

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
                input=stdin if stdin is not None else "",
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

    def kill_controller(self) -> None:
        """The controller crashes. What it learned after its last save (see `save`) is lost.

        It will give the ids of the jobs that it lost again, and nodes may refuse such a job.
        """
        self.forgetful = True
        names = ("slurmctld", "slurmscriptd")
        destroy(lambda: [p for p in members(self.folder) if p.info["name"] in names])
        self._reap("slurmctld")

    def start_controller(self) -> None:
        """Start the controller, unless it runs, and wait until it answers."""
        if not self.alive("slurmctld"):
            argv = ["slurmctld", "-D", "-f", str(self._conf)]
            self._running["slurmctld"] = spawn(self.folder, "slurmctld", argv)
        self._wait_for("slurmctld", partial(self._answers, "scontrol", "ping"))

    def kill_accounting(self) -> None:
        """The accounting daemon crashes; its database goes on."""
        destroy(lambda: [p for p in members(self.folder) if p.info["name"] == "slurmdbd"])
        self._reap("slurmdbd")

    def start_accounting(self) -> None:
        """Start the accounting daemon, unless it runs, and wait until it answers."""
        if not self.alive("slurmdbd"):
            self._running["slurmdbd"] = start_slurmdbd(self.folder)
        self._wait_for("slurmdbd", partial(self._answers, "sacctmgr", "-n", "list", "cluster"))

    def kill_slurmd(self, name: str) -> None:
        """A node's daemon crashes; the steps and jobs on the node go on."""
        found = [p for p in members(self.folder, name) if p.info["name"] == "slurmd"]
        destroy(lambda: [p for p in members(self.folder, name) if p in found])
        self._reap(f"slurmd.{name}")

    def kill_node(self, name: str) -> None:
        """A node dies: its slurmd, the steps and the jobs' processes, at one instant."""
        destroy(lambda: members(self.folder, name))
        self._reap(f"slurmd.{name}")

    def start_slurmd(self, name: str) -> None:
        """Start a node's daemon, unless it runs; does not wait."""
        if not self.alive(f"slurmd.{name}"):
            argv = ["slurmd", "-D", "-f", str(self._conf), "-N", name]
            daemon = spawn(self.folder, f"slurmd.{name}", argv, {NODE: name})
            self._running[f"slurmd.{name}"] = daemon

    def alive(self, name: str) -> bool:
        """Whether a daemon runs: munged, mariadbd, slurmdbd, slurmctld, slurmd.n1, ..."""
        return name in self._running and self._running[name].poll() is None

    def logs(self) -> str:
        """The last lines of every log, for the message of what went wrong."""
        parts = []
        for path in sorted((self.folder / "log").glob("*")):
            lines = path.read_text(errors="replace").splitlines()[-8:]
            parts.append("\n".join([f"--- {path.name}", *lines]))
        return "\n".join(parts)

    def stop(self) -> None:
        """Kill every process of the cluster, make sure of it, and remove the folder."""
        if os.getpid() != self._owner:  # a forked child runs its parent's exit handlers
            return
        atexit.unregister(self.stop)
        destroy(lambda: members(self.folder))
        for name in list(self._running):
            self._reap(name)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _bring_up(self) -> None:
        ports = Ports.free(self.settings.nodes)
        write(self.folder, self.settings, ports)
        self._start_munge()
        if self.settings.accounting == "slurmdbd":
            self._running["mariadbd"] = start_database(self.folder, ports)
            self.start_accounting()
            prepare_accounting(self.run)
        for name in self.settings.names:
            self.start_slurmd(name)
        self.start_controller()

    def _start_munge(self) -> None:
        run, secret = self.folder / "run", self.folder / "munge"
        argv = ["munged", "--foreground", "--force", "--num-threads=2"]
        argv += [f"--key-file={secret}/key", f"--seed-file={secret}/seed"]
        argv += [f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid"]
        argv += [f"--log-file={self.folder}/log/munged.log"]
        self._running["munged"] = spawn(self.folder, "munged", argv)
        self._wait_for("munged", (run / "munge.sock").exists)

    @property
    def _conf(self) -> Path:
        return self.folder / "slurm.conf"

    def _wait_for(self, name: str, ready: Callable[[], bool]) -> None:
        def ready_or_dead() -> bool:
            if not self.alive(name):
                raise ClusterError(f"{name} has ended\n{self.logs()}")
            return ready()

        until(ready_or_dead, 60, lambda: f"{name} does not get ready\n{self.logs()}")

    def _answers(self, *command: str) -> bool:
        try:
            return "DOWN" not in self.run(*command)
        except ClusterError:
            return False

    def _reap(self, name: str) -> None:
        if name in self._running:
            self._running.pop(name).wait()
