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
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spam_lab.config.cluster import ClusterConfig
from spam_lab.config.compose import from_dict
from spam_lab.config.schema import SCHEMA_VERSION, PathsConfig, RunConfig, TrainConfig
from spam_lab.orchestrate.lease import Lease, LeaseLost
from spam_lab.orchestrate.provenance import provenance
from spam_lab.orchestrate.slurm.place import Place
from spam_lab.orchestrate.stop import StopRequest
from spam_lab.record.metrics import MetricWriter, rewind
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, Status
from spam_lab.train.distributed import SOLO, PeerLost, World

if TYPE_CHECKING:
    from spam_lab.train.journal import Journal

LOG = logging.getLogger(__name__)
STATUS_SECONDS = 0.5
"""At most one status a run is written in this time, end states apart."""
LOST_ALLOWED = 5
"""A run whose workers vanish this often in a row, without a new checkpoint, is given up."""


@dataclass(frozen=True)
class Host:
    """How and where this attempt runs: what is not part of a run's identity.

    It replaces what the run directory was created with.
    """

    train: TrainConfig
    cluster: ClusterConfig
    paths: PathsConfig
    command: tuple[str, ...] = ()
    """The command line that asked for it."""


def execute(
    directory: RunDirectory,
    host: Host,
    should_stop: StopRequest,
    world: World = SOLO,
    journal: Callable[[Path], Journal] = MetricWriter,
) -> Status | None:
    """Train the run in `directory` to an end state.

    Args:
        directory: a run directory that holds a config.
        host: how this attempt runs.
        should_stop: asked after every step.
        world: the ranks that train it together. All of them execute the same runs in the same
            order; rank 0 has the lease and moves the states, the others only compute.
        journal: makes what takes the metrics, given the path of the run's log.

    Returns:
        The last status; None where the run was taken or finished by another worker, and on ranks
        other than 0.

    Raises:
        PeerLost: the ranks are out of step: one of them is gone, or has failed. The run is left
            `running`, or `failed` if it was rank 0 that failed. The process can train nothing more.
    """
    if not world.is_main:
        _assist(directory, host, should_stop, world)
        return None
    lease = Lease(directory.lease_path)
    with _calling(world) as call:
        if not lease.acquire():
            return None
        return _hold(directory, host, lease, should_stop, world, call, journal)


@contextlib.contextmanager
def _calling(world: World) -> Iterator[Callable[[], None]]:
    """Lets rank 0 call the others to train; if it does not, they hear that there is nothing."""
    called = False

    def call() -> None:
        nonlocal called
        called = True
        world.from_main(True)

    try:
        yield call
    finally:
        if not called:
            world.from_main(False)


def _assist(directory: RunDirectory, host: Host, should_stop: StopRequest, world: World) -> None:
    """Compute what rank 0 records, if it calls."""
    if not world.from_main(None):
        return
    import torch

    from spam_lab.train.journal import Silent
    from spam_lab.train.loop import Training

    config = _config(directory, host)
    torch.set_num_threads(config.cluster.threads)
    folder = directory.checkpoints_path
    try:
        Training(config, folder, Silent(), should_stop=should_stop, world=world).run()
    except PeerLost:
        raise
    except Exception:
        LOG.error("%s", traceback.format_exc())
        world.require()  # where all ranks failed alike, rank 0 records it and the next run begins


def _hold(
    directory: RunDirectory,
    host: Host,
    lease: Lease,
    should_stop: StopRequest,
    world: World,
    call: Callable[[], None],
    journal: Callable[[Path], Journal],
) -> Status | None:
    """Train the run under its lease."""
    with lease, _logging_to(directory.log_path):
        status = directory.status()
        if status.state.is_result:
            return None
        try:
            config = _config(directory, host)
            lost = _lost(status)
            directory.move(State.SUBMITTED)
            if lost >= LOST_ALLOWED:
                return directory.move(State.FAILED, lost=0, reason=_vanished(status, lost))
            place = Place.here()
            status = directory.move(
                State.RUNNING,
                steps=config.schedule.steps,
                attempt=status.attempt + 1,
                reason="",
                host=place.host,
                job=place.job,
                pid=os.getpid(),
                lost=lost,
            )
            directory.add_provenance(provenance(host.command))
            call()
            return _train(directory, config, lease, should_stop, world, journal)
        except PeerLost as error:
            LOG.error("%s", error)
            raise
        except LeaseLost as error:
            LOG.warning("%s", error)
            world.require()
            return None
        except Exception as error:
            LOG.error("%s", traceback.format_exc())
            failed = _failed(directory, error)
            world.require()
            return failed


def _train(
    directory: RunDirectory,
    config: RunConfig,
    lease: Lease,
    should_stop: StopRequest,
    world: World,
    make_journal: Callable[[Path], Journal],
) -> Status:
    # Imported here: torch and transformers take seconds, and only a worker needs them.
    import torch

    from spam_lab.train import checkpoint
    from spam_lab.train.loop import Progress, Training
    from spam_lab.train.memory import peak_memory

    torch.set_num_threads(config.cluster.threads)
    written = 0.0

    def tell(progress: Progress) -> None:
        nonlocal written
        lease.require()
        if time.monotonic() - written >= STATUS_SECONDS:
            written = time.monotonic()
            known = {n: v for n, v in dataclasses.asdict(progress).items() if v is not None}
            if progress.checkpoint_step > start:
                known["lost"] = 0
            directory.report(**known)

    with world.guard():
        journal = make_journal(directory.metrics_path)
    folder, seen = directory.checkpoints_path, directory.observations_path
    training = Training(config, folder, journal, tell, should_stop, world, seen)
    start = training.step
    with world.guard():
        rewind(directory.metrics_path, start)
        outcome = training.run()
    lease.require()
    states = {"done": State.DONE, "diverged": State.DIVERGED, "stopped": should_stop.state}
    changes: dict[str, Any] = {"step": outcome.step, "reason": outcome.reason, "lost": 0}
    changes["memory_bytes"] = peak_memory(training.device)
    if outcome.state != "diverged":
        changes["checkpoint_step"] = outcome.step
    if outcome.state == "stopped":
        changes["reason"] = f"{should_stop.why} at step {outcome.step}; goes on from there"
    ended = directory.move(states[outcome.state], **changes)
    if ended.state is State.DONE:  # only now: a run that may still go on needs all of it
        try:
            checkpoint.keep(folder, config.train.kept_when_done)
        except Exception as error:  # whatever it is, it must not cost the result
            LOG.warning("the last checkpoint stays whole: %s", error)
    return ended


def _lost(status: Status) -> int:
    """How many attempts in a row have vanished without a new checkpoint, the last one included."""
    return status.lost + 1 if status.state is State.RUNNING else 0


def _vanished(status: Status, lost: int) -> str:
    where = f" of job {status.job}" if status.job else ""
    return f"{lost} workers in a row vanished while training it, the last{where} on {status.host}"


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
