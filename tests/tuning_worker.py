"""A study's worker whose trainings are pretended: `python -m tests.tuning_worker ORDER.json N`.

Everything but the training is the real thing: Optuna's storage, locks, leases, run directories,
metric logs with checkpoints. It starts without torch, so that many can be started and killed. With
DEATHS in the environment, a folder, it kills itself once at each place that `PLACES` names.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from spam_lab.orchestrate.lease import Lease
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.slurm.place import Place
from spam_lab.orchestrate.stop import StopRequest
from spam_lab.orchestrate.tune import claim, journal, trial, worker
from spam_lab.record.metrics import MetricWriter, rewind
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, Status

DEATHS = "SPAM_LAB_TEST_DEATHS"
PLACES = ("asked", "suggested", "made", "taken", "evaluated", "trained", "telling", "told", "torn")
STEPS = 4


def pretend(
    directory: RunDirectory,
    host: Host,
    should_stop: StopRequest,
    journal: Callable[[Path], Any] = MetricWriter,
) -> Status | None:
    """As `execute`, with a loss that the learning rate and the threshold settle."""
    lease = Lease(directory.lease_path)
    if not lease.acquire():
        return None
    with lease:
        status = directory.status()
        if status.state.is_result:
            return None
        directory.move(State.SUBMITTED)
        begun = {"attempt": status.attempt + 1, "pid": os.getpid(), "host": Place.here().host}
        directory.move(State.RUNNING, **begun)
        config = directory.config_file()["config"]["optimizer"]
        start = status.checkpoint_step
        writer = journal(directory.metrics_path)
        rewind(directory.metrics_path, start)
        for step in range(start + 1, STEPS + 1):
            time.sleep(0.02)
            writer.add(step, {"validation/loss": 1 / step + config["theta"] * 1e-5})
            writer.flush(True)
            directory.report(step=step, checkpoint_step=step)
            die("evaluated")
            if should_stop():
                return directory.move(should_stop.state, reason=f"{should_stop.why}")
        die("trained")
        lease.require()
        return directory.move(State.DONE, step=STEPS)


def die(place: str) -> None:
    """Kill this process, the first time that any comes here."""
    folder = os.environ.get(DEATHS)
    if folder:
        with contextlib.suppress(FileExistsError):
            (Path(folder) / place).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)


def dying(owner: Any, name: str, place: str, before: bool = False) -> None:
    """Have a function die once, before or after it has done its work."""
    real = getattr(owner, name)

    def wrapped(*arguments: Any, **more: Any) -> Any:
        if before:
            die(place)
        made = real(*arguments, **more)
        if not before:
            die(place)
        return made

    setattr(owner, name, wrapped)


def tear(self: journal.Journal, logs: list[dict[str, Any]]) -> None:
    """Die in the middle of writing a line, lock in hand."""
    folder = os.environ.get(DEATHS)
    if folder and (Path(folder) / "told").exists() and not (Path(folder) / "torn").exists():
        with journal.flocked(self._path.with_suffix(".lock")), self._path.open("ab") as file:
            file.write(b'{"op_code":4,"worker_id":"x')
            file.flush()
            die("torn")
    whole(self, logs)


whole = journal.Journal.append_logs

if __name__ == "__main__":
    trial.execute = pretend
    dying(optuna.Study, "ask", "asked")
    dying(claim, "trial_config", "suggested", before=True)
    dying(claim, "_create", "made")
    dying(worker, "take", "taken")
    dying(optuna.Study, "tell", "telling", before=True)
    dying(optuna.Study, "tell", "told")
    journal.Journal.append_logs = tear  # type: ignore[method-assign]
    sys.exit(worker.main())
