"""One run, from its directory to an end state: claim it, train it, record how it ended.

Whatever happens in between, the directory is left in a state of the table with a reason: done,
diverged, preempted (asked to stop, goes on later) or failed (with the last line of the error; the
traceback is in log.txt). A process that is killed leaves `running` and a dead lease, which the next
claim takes over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spam_lab.config.compose import from_dict
from spam_lab.config.schema import (
    SCHEMA_VERSION,
    ClusterConfig,
    PathsConfig,
    RunConfig,
    TrainConfig,
)
from spam_lab.orchestrate.lease import Lease, LeaseLost
from spam_lab.orchestrate.provenance import provenance
from spam_lab.record.metrics import MetricWriter, rewind
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, Status

LOG = logging.getLogger(__name__)
STATUS_SECONDS = 0.5
"""At most one status a run is written in this time, end states apart."""


@dataclass(frozen=True)
class Host:
    """How and where this attempt runs: what is not part of a run's identity.

    It replaces what the run directory was created with.
    """

    train: TrainConfig
    cluster: ClusterConfig
    paths: PathsConfig


def execute(directory: RunDirectory, host: Host, should_stop: Callable[[], bool]) -> Status | None:
    """Train the run in `directory` to an end state.

    Args:
        directory: a run directory that holds a config.
        host: how this attempt runs.
        should_stop: asked after every step.

    Returns:
        The last status; None where the run was taken or finished by another worker.
    """
    lease = Lease(directory.lease_path)
    if not lease.acquire():
        return None
    with lease, _logging_to(directory.log_path):
        status = directory.status()
        if status.state.is_result:
            return None
        try:
            config = _config(directory, host)
            directory.move(State.SUBMITTED)
            status = directory.move(
                State.RUNNING,
                steps=config.schedule.steps,
                attempt=status.attempt + 1,
                reason="",
                host=socket.gethostname(),
                pid=os.getpid(),
            )
            directory.add_provenance(provenance())
            return _train(directory, config, lease, should_stop)
        except LeaseLost as error:
            LOG.warning("%s", error)
            return None
        except Exception as error:
            LOG.error("%s", traceback.format_exc())
            return _failed(directory, error)


def _train(
    directory: RunDirectory, config: RunConfig, lease: Lease, should_stop: Callable[[], bool]
) -> Status:
    # Imported here: torch and transformers take seconds, and only a worker needs them.
    import torch

    from spam_lab.train.loop import Progress, Training

    torch.set_num_threads(config.cluster.threads)
    written = 0.0

    def tell(progress: Progress) -> None:
        nonlocal written
        lease.require()
        if time.monotonic() - written >= STATUS_SECONDS:
            written = time.monotonic()
            known = dataclasses.asdict(progress)
            directory.report(**{name: v for name, v in known.items() if v is not None})

    journal = MetricWriter(directory.metrics_path)
    training = Training(config, directory.checkpoints_path, journal, tell, should_stop)
    rewind(directory.metrics_path, training.step)
    outcome = training.run()
    lease.require()
    states = {"done": State.DONE, "diverged": State.DIVERGED, "stopped": State.PREEMPTED}
    changes = {"step": outcome.step, "reason": outcome.reason}
    if outcome.state != "diverged":
        changes["checkpoint_step"] = outcome.step
    if outcome.state == "stopped":
        changes["reason"] = f"asked to stop at step {outcome.step}; goes on from there"
    return directory.move(states[outcome.state], **changes)


def _config(directory: RunDirectory, host: Host) -> RunConfig:
    stored = from_dict(directory.config_file(SCHEMA_VERSION)["config"])
    return dataclasses.replace(stored, train=host.train, cluster=host.cluster, paths=host.paths)


def _failed(directory: RunDirectory, error: Exception) -> Status | None:
    last = (str(error).strip().splitlines() or [""])[0]
    reason = f"{type(error).__name__}: {last}" if last else type(error).__name__
    if isinstance(error, OSError) and error.filename:
        reason = f"{error.strerror}: {error.filename}"
    try:
        return directory.move(State.FAILED, reason=reason)
    except OSError as second:
        # A full disk: the run stays `running` with a dead lease, which a later claim takes over.
        LOG.error("cannot record the failure of %s: %s", directory.run_id, second)
        return None


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send this process's log records to the run's log.txt as well, while the block lasts."""
    handler: logging.Handler
    try:
        handler = logging.FileHandler(path, delay=True)
    except OSError:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
