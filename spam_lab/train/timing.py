"""How long things take inside a training step, kept where the work is until somebody asks.

`Stopwatch` owns the time of named parts of the loop. It promises that measuring never makes the
processor wait for an accelerator: there it leaves events in the stream, and reads them when the
means are asked for, which is at a write of metrics, when the loop has waited already.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator

import torch

WINDOW = 100
"""Steps that a mean is over: those of the paper's Table 14. A window of this length holds the same
number of resets, and of GaLore's decompositions, wherever it ends, if their interval divides it."""

Mark = float | torch.cuda.Event


class Stopwatch:
    """The mean time of named parts, over the last `WINDOW` times that each happened.

    On a CPU this is wall clock; on a GPU it is the time between two events in the stream, which
    holds the work itself and any waiting for the processor to launch it.

    Args:
        device: where the measured work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._unread: dict[str, deque[tuple[Mark, Mark]]] = {}
        self._seconds: dict[str, deque[float]] = {}

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time the block as one more `name`; a block that raises is not counted."""
        start = self._mark()
        yield
        self._unread.setdefault(name, deque(maxlen=WINDOW)).append((start, self._mark()))

    def means(self) -> dict[str, float]:
        """Mean seconds of each part so far.

        Means, not medians: a step in which SPAM draws masks or GaLore decomposes its gradients is
        rare and dear, and counts for what it costs.
        """
        for name, spans in self._unread.items():
            known = self._seconds.setdefault(name, deque(maxlen=WINDOW))
            known.extend(_seconds(*span) for span in spans)
            spans.clear()
        return {name: sum(known) / len(known) for name, known in self._seconds.items()}

    def _mark(self) -> Mark:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _seconds(start: Mark, end: Mark) -> float:
    """Seconds from one mark to the other; waits for the device to reach the second."""
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float) and isinstance(end, float), "marks of two kinds"
        return end - start
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1e3
