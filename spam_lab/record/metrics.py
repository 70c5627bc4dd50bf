"""The metric log of a run: one JSON line a step, appended in batches.

A line is {"step", "time_ms", "values"}: `step` counts completed updates from 1, `time_ms` is Unix
time, `values` maps metric names to numbers. A step may be written more than once (evaluation after
training, a resumed run); readers merge its lines, the last value of a name winning. `rewind` drops
what lies beyond a checkpoint, so that a resumed run leaves one continuous curve.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spam_lab.files import dump_json, number_from, read_lines, replacing


@dataclass
class MetricLine:
    """All values of one step. `time_ms` is the time of its last write."""

    step: int
    time_ms: int
    values: dict[str, float] = field(default_factory=dict)


def read_metrics(path: Path) -> list[MetricLine]:
    """The metrics of a run by step, ascending; empty where none were written."""
    lines: dict[int, MetricLine] = {}

    def use(entry: dict[str, Any]) -> None:
        line = lines.setdefault(entry["step"], MetricLine(entry["step"], entry["time_ms"]))
        line.time_ms = entry["time_ms"]
        line.values.update({name: number_from(value) for name, value in entry["values"].items()})

    read_lines(path, use)
    return [lines[step] for step in sorted(lines)]


class MetricWriter:
    """Appends metric lines to a file; `flush` makes them durable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: list[bytes] = []

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Buffer one line, stamped with the present time."""
        entry = {"step": step, "time_ms": time.time_ns() // 1_000_000, "values": dict(values)}
        self._pending.append(dump_json(entry).encode() + b"\n")

    def flush(self, durable: bool = False) -> None:
        """Append what is buffered; `durable` also waits for the disk."""
        if not self._pending and not durable:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(b"".join(self._pending))
            file.flush()
            if durable:
                os.fsync(file.fileno())
        self._pending.clear()


def rewind(path: Path, step: int) -> None:
    """Drop every line beyond `step`, and a last line cut short by a crash."""
    kept: list[dict[str, Any]] = []
    dropped = 0

    def use(entry: dict[str, Any]) -> None:
        nonlocal dropped
        if entry["step"] <= step:
            kept.append(entry)
        else:
            dropped += 1

    end = read_lines(path, use)
    if dropped or (path.exists() and path.stat().st_size != end):
        with replacing(path) as file:
            file.writelines(dump_json(entry).encode() + b"\n" for entry in kept)
