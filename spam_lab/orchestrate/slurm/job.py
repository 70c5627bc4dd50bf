"""What runs inside a SLURM job: workers for the runs that the job was given, until they are done.

submitit starts one of these in every process of the job. Signals ask the workers to stop at a step,
with a checkpoint; a job with runs left then has itself requeued, and goes on as the same job. It
leaves requeueing to SLURM where SLURM does it anyway, and a cancelled job stays cancelled.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spam_lab.files import read_json, write_json
from spam_lab.orchestrate.census import Census
from spam_lab.orchestrate.lease import is_live
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.slurm import queue
from spam_lab.orchestrate.slurm.packing import share
from spam_lab.orchestrate.slurm.place import Place
from spam_lab.orchestrate.slurm.resources import world_size
from spam_lab.orchestrate.worker import Order, host_from
from spam_lab.orchestrate.workers import Workers, WorkersLost
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory

LOG = logging.getLogger(__name__)

REQUEUES_WITHOUT_A_STEP = 3
"""A job whose peers are lost this often without any of its runs getting further gives up."""


@dataclass(frozen=True)
class ArrayOrder:
    """What the jobs of one array are to do.

    Attributes:
        root: the folder of run directories.
        run_ids, bounds, jobs: who gets what (`packing.share`).
        host: how runs are trained.
        side_by_side: runs a job trains at the same time.
    """

    root: Path
    run_ids: tuple[str, ...]
    bounds: tuple[int, ...]
    jobs: int
    host: Host
    side_by_side: int

    def write(self, path: Path) -> None:
        """Keep the order as JSON."""
        write_json(path, asdict(self) | {"root": str(self.root)})

    @classmethod
    def read(cls, path: Path) -> ArrayOrder:
        """The order that `write` kept."""
        content = read_json(path)
        return cls(
            Path(content["root"]),
            tuple(content["run_ids"]),
            tuple(content["bounds"]),
            content["jobs"],
            host_from(content["host"]),
            content["side_by_side"],
        )


@dataclass(frozen=True)
class SlurmJob:
    """Job `index` of the array whose order is at `path`: all that submitit pickles."""

    path: str
    index: int

    def __call__(self) -> str:
        """Do the job; what became of it, for submitit's files."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        return _Job(ArrayOrder.read(Path(self.path)), self.index, Path(self.path).parent).run()

    def checkpoint(self) -> Any:
        """The same job again: a signal came before ours could be heard, so nothing was begun."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _Job:
    """One process of a job: the only one, or one of those that train runs together."""

    def __init__(self, order: ArrayOrder, index: int, folder: Path) -> None:
        self._place = Place.here()
        cluster = order.host.cluster
        seconds = cluster.time * 60 - cluster.signal_seconds
        run_ids = share(order.run_ids, order.bounds, index, order.jobs)
        attempt = f"{self._place.raw_job}.{self._place.restart}"
        own = Order(
            order.root,
            run_ids,
            order.host,
            ends_at=time.time() + seconds,
            rendezvous=str(folder / f"rendezvous_{attempt}.json"),
            world_size=world_size(cluster),
        )
        count = order.side_by_side if own.world_size == 1 else 1
        self._gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        self._census = Census(order.root, list(run_ids))
        self._workers = Workers(own, self._census, min(count, len(run_ids)), self._environment)

    def run(self) -> str:
        """Train what is left of the job's runs; then requeue, or end."""
        listen(self._workers.stop)
        self._census.refresh()
        before = self._progress()
        lost = ""
        try:
            self._workers.train()
        except WorkersLost as error:
            lost = str(error)
            LOG.error("%s", lost)
        self._census.refresh()
        left = self._left()
        if not left:
            return "done"
        if self._place.rank != 0:
            return f"left to rank 0: {lost or 'stopped'}"
        if lost and self._place.restart >= REQUEUES_WITHOUT_A_STEP and self._progress() <= before:
            self._give_up(left, lost)
            return f"given up: {lost}"
        LOG.info("%d runs are left: asking to be requeued", len(left))
        if requeued(self._place, self._workers.order.host.cluster.signal_seconds):
            return "requeued"
        return f"stopped with {len(left)} runs left"

    def _left(self) -> list[str]:
        """Runs of this job without an end, which nobody else is training."""
        root = self._census.root
        return [
            run_id
            for run_id, status in self._census.statuses.items()
            if not status.state.has_ended and not is_live(RunDirectory(root, run_id).lease_path)
        ]

    def _progress(self) -> int:
        return sum(status.checkpoint_step for status in self._census.statuses.values())

    def _give_up(self, run_ids: list[str], reason: str) -> None:
        for run_id in run_ids:
            directory = RunDirectory(self._census.root, run_id)
            if directory.status().state is State.RUNNING:
                directory.move(State.FAILED, reason=f"lost a process again and again: {reason}")

    def _environment(self, number: int) -> Mapping[str, str]:
        """One GPU for each worker, in turn, where the job has several and workers train alone."""
        if len(self._gpus) < 2 or self._workers.order.world_size > 1:
            return {}
        return {"CUDA_VISIBLE_DEVICES": self._gpus[number % len(self._gpus)]}


def listen(stop: Callable[[], None]) -> None:
    """Have SLURM's signals call `stop`, from now on: submitit's own handlers are replaced."""
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, frame: stop())
    signal.signal(signal.SIGCONT, lambda got, frame: None)  # comes before SLURM's SIGTERM


def requeued(place: Place, seconds: float) -> bool:
    """Have this job run again, unless SLURM is ending it: as cancelled, or to requeue it.

    A preemption need not send USR2, and a cancelled job gets the same SIGTERM: what SLURM says of
    the job tells them apart. A controller that is away is waited for, as long as there is time.

    Args:
        place: this job.
        seconds: how long to try.
    """
    end = time.monotonic() + seconds
    while True:
        state = queue.raw_job_state(place.raw_job)
        if state == "RUNNING":
            if queue.requeue(place.job):
                return True
        elif state is not None:
            LOG.info("SLURM says this job is %s: it is left to it", state)
            return False
        if time.monotonic() > end:
            LOG.warning("SLURM does not requeue this job; launch again to go on")
            return False
        time.sleep(1.0)
