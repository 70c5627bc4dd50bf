"""A worker process: claims the runs of an order one after another and trains each.

`python -m spam_lab.orchestrate.worker ORDER.json` is started by the dispatcher. Any number of
workers may hold the same order: the lease decides who trains what. It stops at the next step, with
a checkpoint, on SIGTERM, SIGINT or SIGUSR2, and when the process that started it is gone, so a
killed dispatcher leaves no orphans.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from spam_lab.config.schema import ClusterConfig, PathsConfig, TrainConfig
from spam_lab.files import read_json, write_json
from spam_lab.orchestrate.run import Host, execute
from spam_lab.record.store import RunDirectory

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@dataclass(frozen=True)
class Order:
    """What workers are handed: run ids in order, and how this attempt runs."""

    root: Path
    run_ids: tuple[str, ...]
    host: Host

    def write(self, path: Path) -> None:
        """Keep the order as JSON."""
        content = {"root": str(self.root), "run_ids": list(self.run_ids), "host": asdict(self.host)}
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> Order:
        """The order that `write` kept."""
        content = read_json(path)
        host = content["host"]
        return cls(
            Path(content["root"]),
            tuple(content["run_ids"]),
            Host(
                TrainConfig(**host["train"]),
                ClusterConfig(**host["cluster"]),
                PathsConfig(**host["paths"]),
            ),
        )


@dataclass
class StopRequest:
    """True once a stop signal came, or the parent process is gone."""

    parent: int | None = None
    asked: bool = field(default=False, init=False)

    def listen(self) -> None:
        """Take the stop signals of this process."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._ask)

    def __call__(self) -> bool:
        """Whether to stop at the next step."""
        if self.parent is not None and os.getppid() != self.parent:
            self.asked = True
        return self.asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def work(order: Order, should_stop: StopRequest) -> None:
    """Train every run of the order that nobody else has taken, until asked to stop."""
    for run_id in order.run_ids:
        if should_stop():
            return
        execute(RunDirectory(order.root, run_id), order.host, should_stop)


def main() -> int:
    """The process's entry: `worker ORDER.json`."""
    should_stop = StopRequest(parent=os.getppid())
    should_stop.listen()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    work(Order.read(Path(sys.argv[1])), should_stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
