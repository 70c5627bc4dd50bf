"""The workers of one order of runs. Each pulls runs from it.

A run that took two workers down with it is marked failed and left. Where several processes train
one run together, one that is lost ends them all.
"""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from spam_lab.orchestrate.census import Census
from spam_lab.orchestrate.processes import Environment, Processes, cause
from spam_lab.orchestrate.worker import PEER_LOST, Order
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory

DEATHS_ALLOWED = 2
"""A run that ended this many workers is marked failed."""


class WorkersLost(RuntimeError):
    """Processes that train one run together have lost one of them; all must start again."""


class Workers(Processes):
    """The workers of `order`, `count` at a time.

    Args:
        order: what they train.
        census: the state of the order's runs, kept up to date.
        count: how many at a time.
        environment: of worker number i, beyond this process's own.
    """

    def __init__(
        self,
        order: Order,
        census: Census,
        count: int,
        environment: Environment = lambda number: {},
    ) -> None:
        self.order, self._census = order, census
        self._path = order.root / ".orders" / f"{secrets.token_hex(6)}.json"
        self._deaths: Counter[str] = Counter()
        threads = order.host.cluster.threads
        super().__init__(count, threads, self._path.with_suffix(".log"), environment)

    def train(self, watch: Callable[[Census], None] = lambda census: None) -> None:
        """Train what is due; `watch` sees the census several times a second.

        Raises:
            RuntimeError: workers die before they take a run.
            WorkersLost: a peer of a worker, in another process of the job, is gone.
        """

        def look() -> None:
            self._census.refresh()
            watch(self._census)

        self.order.write(self._path)
        try:
            self.run(look)
        finally:
            self._path.unlink(missing_ok=True)

    def command(self, number: int) -> Sequence[str]:
        """The command line of a worker."""
        return [sys.executable, "-m", "spam_lab.orchestrate.worker", str(self._path)]

    def died(self, pid: int, code: int) -> None:
        """Count a death against the run that the worker held."""
        if code == PEER_LOST:
            raise WorkersLost(self.last_words())
        self._census.refresh()
        held = [i for i, status in self._census.running() if status.pid == pid]
        for run_id in held or ["no run"]:
            self._deaths[run_id] += 1
            if self._deaths[run_id] < DEATHS_ALLOWED:
                continue
            if run_id == "no run":
                raise RuntimeError(f"workers die at start ({cause(code)}): {self.last_words()}")
            RunDirectory(self.order.root, run_id).move(
                State.FAILED, reason=f"its worker died {DEATHS_ALLOWED} times: {cause(code)}"
            )
        if self.order.world_size > 1:
            raise WorkersLost(f"a worker died: {cause(code)}")

    def is_left(self) -> bool:
        """Whether a run of the order has not ended."""
        self._census.refresh()
        return any(not self._census.statuses[i].state.has_ended for i in self.order.run_ids)
