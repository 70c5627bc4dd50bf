"""The worker processes of one order: started, replaced when they die, stopped when asked.

Each is in a session of its own and pulls runs from the order. A worker that dies is replaced; a run
that took two workers down with it is marked failed and left. It promises that no worker outlives
`run`.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from spam_lab.orchestrate.census import Census
from spam_lab.orchestrate.worker import PEER_LOST, Order
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory

POLL_SECONDS = 0.25
DEATHS_ALLOWED = 2
"""A run that ended this many workers is marked failed."""


@dataclass
class Workers:
    """The workers of `order`, `count` at a time.

    Attributes:
        order: what they train.
        census: the state of the order's runs, kept up to date.
        count: how many at a time.
        environment: of worker number i, beyond this process's own.
        stopping: whether they were asked to stop.
    """

    order: Order
    census: Census
    count: int
    environment: Callable[[int], Mapping[str, str]] = field(default=lambda number: {})
    stopping: bool = False
    _processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _deaths: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._path = self.order.root / ".orders" / f"{secrets.token_hex(6)}.json"
        self._log = self._path.with_suffix(".log")

    def run(self, watch: Callable[[Census], None]) -> None:
        """Start workers, watch them to the end, leave nothing behind.

        Raises:
            RuntimeError: workers die before they take a run.
            WorkersLost: a peer of a worker, in another process of the job, is gone.
        """
        self.order.write(self._path)
        try:
            for number in range(self.count):
                self._start(number)
            while self._processes:
                time.sleep(POLL_SECONDS)
                self._reap()
                self.census.refresh()
                watch(self.census)
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()
            self._path.unlink(missing_ok=True)
            if not self._deaths:
                self._log.unlink(missing_ok=True)

    def stop(self, *, kill: bool = False) -> None:
        """Ask every worker to stop at its next step, or kill them. Safe in a signal handler."""
        self.stopping = True
        for process in list(self._processes.values()):
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)

    def _start(self, number: int) -> None:
        threads = str(self.order.host.cluster.threads)
        with self._log.open("ab") as output:
            self._processes[number] = subprocess.Popen(
                [sys.executable, "-m", "spam_lab.orchestrate.worker", str(self._path)],
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": threads,
                    "MKL_NUM_THREADS": threads,
                    **self.environment(number),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if self.stopping:  # asked while it was being made
            self._processes[number].send_signal(signal.SIGTERM)

    def _reap(self) -> None:
        """Drop workers that ended; replace one that died while work is left."""
        for number, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self._processes[number]
            if code == PEER_LOST:
                raise WorkersLost(self._last_words())
            if code == 0 or self.stopping:
                continue
            self._blame(process.pid, code)
            if self.order.world_size > 1:
                raise WorkersLost(f"a worker died: {_cause(code)}")
            if self._work_is_left():
                self._start(number)

    def _blame(self, pid: int, code: int) -> None:
        """Count a death against the run that the worker held."""
        self.census.refresh()
        held = [i for i, status in self.census.running() if status.pid == pid]
        for run_id in held or ["no run"]:
            self._deaths[run_id] += 1
            if self._deaths[run_id] < DEATHS_ALLOWED:
                continue
            if run_id == "no run":
                raise RuntimeError(f"workers die at start ({_cause(code)}): {self._last_words()}")
            RunDirectory(self.order.root, run_id).move(
                State.FAILED, reason=f"its worker died {DEATHS_ALLOWED} times: {_cause(code)}"
            )

    def _work_is_left(self) -> bool:
        self.census.refresh()
        return any(not self.census.statuses[i].state.has_ended for i in self.order.run_ids)

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it printed nothing"


class WorkersLost(RuntimeError):
    """Processes that train one run together have lost one of them; all must start again."""


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
