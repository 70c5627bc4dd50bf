"""Worker processes: started, replaced when they die while work is left, stopped when asked.

Each is in a session of its own, so that a Ctrl-C reaches only who started it. It promises that no
worker outlives `run`. What work there is, and what a death means, is for a subclass to say.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.25

Environment = Callable[[int], Mapping[str, str]]
"""What worker number i has in its environment, beyond this process's own."""


class Processes(ABC):
    """`count` worker processes at a time.

    Args:
        count: how many.
        threads: of each, for the libraries that read it from the environment.
        log: what they print goes here; kept only where one of them died.
        environment: further variables.
    """

    def __init__(
        self, count: int, threads: int, log: Path, environment: Environment = lambda number: {}
    ) -> None:
        self.stopping = False
        self._count, self._threads, self._log = count, str(threads), log
        self._environment = environment
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._anybody_died = False

    def run(self, look: Callable[[], None]) -> None:
        """Start workers, see them to their end, leave nothing behind; calls `look` meanwhile."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        try:
            for number in range(self._count):
                self._start(number)
            while self._processes:
                time.sleep(POLL_SECONDS)
                self._reap()
                look()
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()
            if not self._anybody_died:
                self._log.unlink(missing_ok=True)

    def stop(self, *, kill: bool = False) -> None:
        """Ask every worker to stop at its next step, or kill them. Safe in a signal handler."""
        self.stopping = True
        for process in list(self._processes.values()):
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)

    @abstractmethod
    def command(self, number: int) -> Sequence[str]:
        """The command line of worker `number`."""

    @abstractmethod
    def died(self, pid: int, code: int) -> None:
        """A worker has ended with `code`, neither well nor because it was asked to."""

    @abstractmethod
    def is_left(self) -> bool:
        """Whether there is work for a new worker."""

    def last_words(self) -> str:
        """The last line that a worker printed."""
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it printed nothing"

    def _start(self, number: int) -> None:
        with self._log.open("ab") as output:
            self._processes[number] = subprocess.Popen(
                self.command(number),
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": self._threads,
                    "MKL_NUM_THREADS": self._threads,
                    **self._environment(number),
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
            if code == 0 or self.stopping:
                continue
            self._anybody_died = True
            self.died(process.pid, code)
            if self.is_left():
                self._start(number)


@contextlib.contextmanager
def interruptible(workers: Processes) -> Iterator[None]:
    """Have the first Ctrl-C ask the workers to stop, and the second kill them.

    Raises:
        KeyboardInterrupt: when they have ended because of it.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not workers.stopping:
            print("stopping at the next step, with a checkpoint; again to kill", file=sys.stderr)
        workers.stop(kill=workers.stopping)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
    if workers.stopping:
        raise KeyboardInterrupt


def cause(code: int) -> str:
    """What ended a process, in words."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
