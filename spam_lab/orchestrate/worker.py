"""A worker process: claims the runs of an order one after another and trains each.

`python -m spam_lab.orchestrate.worker ORDER.json` is started by the dispatcher or by a SLURM job.
Any number of workers may hold the same order: the lease decides who trains what. Where an order is
for several processes together, they are one worker. It stops at the next step, with a checkpoint,
on SIGTERM, SIGINT or SIGUSR2, and when the process that started it is gone, so a killed dispatcher
leaves no orphans.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spam_lab.config.cluster import ClusterConfig
from spam_lab.config.schema import PathsConfig, TrainConfig
from spam_lab.files import read_json, write_json
from spam_lab.orchestrate.run import Host, execute
from spam_lab.orchestrate.slurm.place import Place
from spam_lab.orchestrate.slurm.rendezvous import Rendezvous
from spam_lab.orchestrate.stop import StopRequest
from spam_lab.record.store import RunDirectory
from spam_lab.train.distributed import SOLO, World

LOG = logging.getLogger(__name__)

PEER_LOST = 75
"""Exit code of a worker one of whose processes is gone (sysexits' EX_TEMPFAIL: try again)."""


@dataclass(frozen=True)
class Order:
    """What workers are handed: run ids in order, and how this attempt runs.

    Attributes:
        root: the folder of run directories.
        run_ids: which runs, in the order in which they are tried.
        host: how.
        ends_at: when the job is told to stop because its time is up, Unix time; None for never.
        rendezvous: where the processes that train one run together meet; empty for one process.
        world_size: how many they are.
    """

    root: Path
    run_ids: tuple[str, ...]
    host: Host
    ends_at: float | None = None
    rendezvous: str = ""
    world_size: int = 1

    def write(self, path: Path) -> None:
        """Keep the order as JSON."""
        content = asdict(self) | {"root": str(self.root), "run_ids": list(self.run_ids)}
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> Order:
        """The order that `write` kept."""
        content = read_json(path)
        return cls(
            **content
            | {
                "root": Path(content["root"]),
                "run_ids": tuple(content["run_ids"]),
                "host": host_from(content["host"]),
            }
        )


def host_from(content: dict[str, Any]) -> Host:
    """The host that an order or a job holds as plain values."""
    return Host(
        TrainConfig(**content["train"]),
        ClusterConfig(**content["cluster"]),
        PathsConfig(**content["paths"]),
        tuple(content["command"]),
    )


def work(order: Order, should_stop: StopRequest, world: World = SOLO) -> None:
    """Train every run of the order that nobody else has taken, until asked to stop.

    Nothing is begun once the job's time is nearly up.
    """
    for run_id in order.run_ids:
        if world.any(should_stop() or should_stop.is_late()):
            return
        execute(RunDirectory(order.root, run_id), order.host, should_stop, world)


def main() -> int:
    """The process's entry: `worker ORDER.json`."""
    order = Order.read(Path(sys.argv[1]))
    should_stop = StopRequest(parent=os.getppid(), ends_at=order.ends_at)
    should_stop.listen()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if order.world_size == 1:
        work(order, should_stop)
        return 0
    return _work_together(order, should_stop)


def _work_together(order: Order, should_stop: StopRequest) -> int:
    from spam_lab.train.distributed import PeerLost, join

    place = Place.here()
    try:
        address, port = Rendezvous(Path(order.rendezvous)).meet(place.rank)
        world = join(
            place.rank, place.ranks, place.local_rank, address, port, order.host.train.device
        )
        try:
            work(order, should_stop, world)
        finally:
            world.close()
    except (PeerLost, TimeoutError) as error:
        LOG.error("%s", error)
        logging.shutdown()
        os._exit(PEER_LOST)  # what is left of the group might wait for the lost peer
    return 0


if __name__ == "__main__":
    sys.exit(main())
