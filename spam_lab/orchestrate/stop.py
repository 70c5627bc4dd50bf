"""The request to stop: signals, a parent that is gone, or a job whose time is up.

It promises that being asked never interrupts anything: whoever trains looks at a step boundary.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from types import FrameType

from spam_lab.record.state import State

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""SLURM sends USR2 before a job's end (and before a preemption, where the site asks it to)."""

PRUNED = "pruned"
"""How the reason of a run begins that its study's pruner gave up."""

TICK_SECONDS = 35.0
"""SLURM looks at time limits every 30 s, and signals up to that much early."""


@dataclass
class StopRequest:
    """True once a stop signal came, or the parent process is gone.

    Attributes:
        parent: the process whose end is a request to stop; None for none.
        ends_at: when this job is told to stop because its time is up, Unix time; None for never.
        asked: whether a stop was asked for.
    """

    parent: int | None = None
    ends_at: float | None = None
    asked: bool = field(default=False, init=False)
    _state: State = field(default=State.PREEMPTED, init=False)

    def listen(self) -> None:
        """Take the stop signals of this process."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._ask)

    def __call__(self) -> bool:
        """Whether to stop at the next step."""
        if self.parent is not None and os.getppid() != self.parent:
            self.ask()
        return self.asked

    @property
    def state(self) -> State:
        """What a run that stops for this goes to: timed_out where the job's time is up."""
        return self._state

    @property
    def why(self) -> str:
        """Why a run stops for this, as its reason begins."""
        return "the job's time was up" if self.state is State.TIMED_OUT else "asked to stop"

    def ask(self) -> None:
        """Ask for a stop."""
        if not self.asked:
            self.asked = True
            if self.ends_at is not None and time.time() >= self.ends_at - TICK_SECONDS:
                self._state = State.TIMED_OUT

    def is_late(self) -> bool:
        """Whether the job is so near its end that nothing should be begun."""
        return self.ends_at is not None and time.time() >= self.ends_at

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.ask()
