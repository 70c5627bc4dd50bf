"""Dispatch to this computer: worker processes that pull runs, or this very process.

Workers run in sessions of their own, so a Ctrl-C in the terminal reaches only the dispatcher: the
first asks them to stop at the next step with a checkpoint, the second kills them. A dispatcher that
is itself killed is noticed by its workers. A worker that dies is replaced; a run that took two
workers down with it is marked failed and left.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from spam_lab.orchestrate.census import Census
from spam_lab.orchestrate.plan import Plan
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.worker import Order, StopRequest, work
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory

POLL_SECONDS = 0.25
DEATHS_ALLOWED = 2
"""A run that ended this many workers is marked failed."""


def dispatch(plan: Plan, host: Host, watch: Callable[[Census], None]) -> Census:
    """Train everything that is due, and return how each run of the plan ended.

    Args:
        plan: what to train; its directories have been written.
        host: how this attempt runs; `host.cluster` says where.
        watch: called several times a second with the census, to show progress.

    Raises:
        KeyboardInterrupt: the user stopped it; everything that ran can go on from a checkpoint.
    """
    order = _order(plan, host)
    census = Census(plan.root, [entry.run_id for entry in plan.entries])
    if not order.run_ids:
        census.refresh()
        return census
    if host.cluster.name == "inline":
        run_here(plan, host)
    else:
        _Workers(order, census).run(watch)
    census.refresh()
    return census


def worker_count(host: Host, runs: int) -> int:
    """Workers to start: as asked, else what the cores allow; never more than there are runs."""
    # Not every system can say which cores a process may use.
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(host.cluster.workers or max(1, cores // host.cluster.threads), max(1, runs))


def run_here(plan: Plan, host: Host) -> None:
    """Train everything that is due in this process, one run after the other.

    Raises:
        KeyboardInterrupt: the user stopped it, at a step boundary and with a checkpoint.
    """
    stop = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop.listen()
    try:
        work(_order(plan, host), stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.asked:
        raise KeyboardInterrupt


def _order(plan: Plan, host: Host) -> Order:
    return Order(plan.root, tuple(entry.run_id for entry in plan.due), host)


@dataclass
class _Workers:
    """The worker processes of one order."""

    order: Order
    census: Census
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    interrupts: int = 0
    deaths: Counter[str] = field(default_factory=Counter)

    def run(self, watch: Callable[[Census], None]) -> None:
        """Start workers, watch them to the end, leave nothing behind."""
        path = self.order.root / ".orders" / f"{secrets.token_hex(6)}.json"
        self.order.write(path)
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for number in before:
            signal.signal(number, self._interrupt)
        try:
            for _ in range(worker_count(self.order.host, len(self.order.run_ids))):
                self._start(path)
            while self.processes:
                time.sleep(POLL_SECONDS)
                self._reap(path)
                self.census.refresh()
                watch(self.census)
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
            path.unlink(missing_ok=True)
            if not self.deaths:
                path.with_suffix(".log").unlink(missing_ok=True)
        if self.interrupts:
            raise KeyboardInterrupt

    def _start(self, path: Path) -> None:
        threads = str(self.order.host.cluster.threads)
        log = path.with_suffix(".log")
        with log.open("ab") as output:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "spam_lab.orchestrate.worker", str(path)],
                    env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupts += 1
        if self.interrupts == 1:
            print("stopping at the next step, with a checkpoint; again to kill", file=sys.stderr)
        for process in self.processes:
            process.send_signal(signal.SIGTERM if self.interrupts == 1 else signal.SIGKILL)

    def _reap(self, path: Path) -> None:
        """Drop workers that ended; replace one that died while work is left."""
        for process in list(self.processes):
            code = process.poll()
            if code is None:
                continue
            self.processes.remove(process)
            if code == 0 or self.interrupts:
                continue
            self._blame(process.pid, code)
            if self._work_is_left():
                self._start(path)

    def _blame(self, pid: int, code: int) -> None:
        """Count a death against the run that the worker held."""
        self.census.refresh()
        held = [i for i, status in self.census.running() if status.pid == pid]
        for run_id in held or ["no run"]:
            self.deaths[run_id] += 1
            if self.deaths[run_id] < DEATHS_ALLOWED:
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
        logs = sorted((self.order.root / ".orders").glob("*.log"), key=lambda p: p.stat().st_mtime)
        lines = logs[-1].read_text(errors="replace").strip().splitlines() if logs else []
        return lines[-1] if lines else "it printed nothing"


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
