"""Optuna's journal in a file that workers may be killed over at any instant.

Optuna's own locks on a journal are files that a killed process leaves behind, and that others take
after half a minute, from a process that is merely slow too. Here the system holds the lock and
releases it with the process. A line that was cut short by a death is taken out by the next writer:
nobody has read it, as only whole lines are read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from optuna.storages.journal import JournalFileBackend

from spam_lab.orchestrate.tune.storage import flocked


class Journal(JournalFileBackend):
    """The journal at `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines: all of them, or, where this process is killed, some of them and no half."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        with flocked(self._path.with_suffix(".lock")), self._path.open("rb+") as file:
            _seek_whole_end(file)
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())


def _seek_whole_end(file: IO[bytes]) -> None:
    """Go to the end of the last whole line, and cut off what comes after it."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    file.truncate(whole)
    file.seek(whole)
