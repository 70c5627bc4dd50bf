"""A worker of a study: takes a trial, answers it, takes the next; no worker waits for another.

`python -m spam_lab.orchestrate.tune.worker ORDER.json N` is started by the launcher or a SLURM job.
It stops at the next step, with a checkpoint, on the signals a worker of runs stops on; its trial is
then taken up by whoever comes next.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from spam_lab.config.schema import StudyConfig
from spam_lab.files import read_json, write_json
from spam_lab.orchestrate.expand import load_study
from spam_lab.orchestrate.lease import Lease
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.stop import StopRequest
from spam_lab.orchestrate.tune.claim import is_waited_for, take
from spam_lab.orchestrate.tune.hours import Hours
from spam_lab.orchestrate.tune.methods import make_pruner
from spam_lab.orchestrate.tune.ongoing import Ongoing, worker_lease
from spam_lab.orchestrate.tune.space import space_of, trial_config
from spam_lab.orchestrate.tune.storage import StudyFolder, open_study
from spam_lab.orchestrate.tune.trial import answer
from spam_lab.orchestrate.worker import host_from

LOG = logging.getLogger(__name__)

ELSEWHERE_SECONDS = 1.0
"""Between looks at trials whose runs somebody else trains, where there is nothing else to do."""


@dataclass(frozen=True)
class StudyOrder:
    """What the workers of a study are handed.

    Attributes:
        root: the folder of run directories.
        scale: the scale's name.
        study: the budget and how it searches; `name` is that of the file in sweeps/.
        overrides: what the command line sets in every trial.
        host: how runs are trained.
        ends_at: when the job is told to stop because its time is up, Unix time; None for never.
    """

    root: Path
    scale: str
    study: StudyConfig
    overrides: tuple[str, ...]
    host: Host
    ends_at: float | None = None

    def write(self, path: Path) -> None:
        """Keep the order as JSON."""
        write_json(path, asdict(self) | {"root": str(self.root)})

    @classmethod
    def read(cls, path: Path) -> StudyOrder:
        """The order that `write` kept."""
        content = read_json(path)
        return cls(
            Path(content["root"]),
            content["scale"],
            StudyConfig(**content["study"]),
            tuple(content["overrides"]),
            host_from(content["host"]),
            content["ends_at"],
        )

    @property
    def folder(self) -> StudyFolder:
        """The study's folder."""
        return StudyFolder(self.root, self.study.name, self.scale)


def join(order: StudyOrder, number: int) -> Ongoing:
    """Worker `number`'s part in the study of an order."""
    definition, overrides = load_study(order.study.name), list(order.overrides)
    space = space_of(definition, overrides)
    any_point = trial_config(definition, overrides, space.corners()[0])
    longest = max(
        [d.high for d in space.dimensions if d.key == "schedule.steps" and d.high]
        or [any_point.schedule.steps]
    )
    pruner = make_pruner(order.study, int(longest), any_point.evaluation.every)
    study = open_study(order.folder, order.study, pruner=pruner)
    name = f"{number}-{secrets.token_hex(4)}"
    return Ongoing(study, order.folder, definition, space, overrides, order.study, name)


def search(ongoing: Ongoing, host: Host, stop: StopRequest) -> None:
    """Answer trials until there are as many as asked for, or until asked to stop."""
    path = worker_lease(ongoing.folder, ongoing.worker)
    hours = Hours(path.with_name("hours.json"))
    lease = Lease(path)
    assert lease.acquire(), "a worker's name is its own"
    with lease:
        while not stop() and not stop.is_late():
            taken = take(ongoing)
            if taken is not None:
                with hours.busy():
                    if not answer(ongoing, taken, host, stop):
                        break
            elif is_waited_for(ongoing):
                time.sleep(ELSEWHERE_SECONDS)
            else:
                break
    LOG.info("worker %s: %s", ongoing.worker, hours)


def main() -> int:
    """The process's entry: `worker ORDER.json NUMBER`."""
    order = StudyOrder.read(Path(sys.argv[1]))
    stop = StopRequest(parent=os.getppid(), ends_at=order.ends_at)
    stop.listen()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    search(join(order, int(sys.argv[2])), order.host, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
