"""How much of its time a worker of a study spent on trials: `hours.json` in the worker's folder.

Written after every trial, so that a killed worker's hours are known up to its last one. What is
left are the asking, the telling, and the waits for both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spam_lab.files import write_json
from spam_lab.orchestrate.slurm.place import Place


class Hours:
    """The hours of one worker, from now on; kept at `path`."""

    def __init__(self, path: Path) -> None:
        self._path, self._start = path, time.monotonic()
        self._begun_ms = time.time_ns() // 1_000_000
        self._busy, self._trials = 0.0, 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Time that goes into one trial."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._busy += time.monotonic() - start
            self._trials += 1
            self._write()

    def __str__(self) -> str:
        whole = time.monotonic() - self._start
        return f"{self._busy:.1f} s of {whole:.1f} s were spent on {self._trials} trials"

    def _write(self) -> None:
        place = Place.here()
        content = {
            "host": place.host,
            "job": place.job,
            "begun_ms": self._begun_ms,
            "seconds": time.monotonic() - self._start,
            "busy_seconds": self._busy,
            "trials": self._trials,
        }
        write_json(self._path, content)
