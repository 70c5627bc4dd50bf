"""The points of a run's curves that belong in the record: which lines of metrics.jsonl, thinned to
about a hundred a metric.

It promises that the choice depends on the run directory alone and only ever grows while a run goes
forward: what may still be rewritten after a crash (lines beyond the last checkpoint) is left out
until the run has ended, and a value keeps the time at which it was written, so that recording the
same point twice is recording it once. Infinity is never a point: MLflow would store it as 1.8e308.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spam_lab.files import number_from, read_lines
from spam_lab.record.state import State
from spam_lab.record.store import Status

DIVERGED = "diverged"
"""Metric that every ended run has: 1 where it diverged, else 0."""

ENDED = frozenset({State.DONE, State.DIVERGED, State.FAILED})
"""States in which no line of the metrics will be rewritten unless the run is submitted again."""

_POINTS_A_CURVE = 100
_ALWAYS_KEPT = "validation/"


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric. `time_ms` is the time of its last write."""

    name: str
    step: int
    time_ms: int
    value: float

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What tells two points apart. NaN equals NaN; a store may round the last digits."""
        return (self.name, self.step, self.time_ms, f"{self.value:.12g}")


def recordable_points(metrics: Path, status: Status) -> list[Point]:
    """The points to record of a run in this state, by step; `diverged` comes last."""
    lines = _read(metrics)
    ended = status.state in ENDED
    steps = sorted(step for step in lines if ended or step <= status.checkpoint_step)
    points = [
        Point(name, step, time_ms, value + 0.0)  # stores do not keep the sign of zero
        for step in _thinned(steps, lines, status.steps, ended)
        for name, (time_ms, value) in sorted(lines[step].items())
        if not math.isinf(value)
    ]
    if ended:
        step, time_ms = status.step, status.updated_ms
        if steps:
            step, time_ms = steps[-1], max(time for time, _ in lines[steps[-1]].values())
        points.append(Point(DIVERGED, step, time_ms, float(status.state is State.DIVERGED)))
    return points


def points_digest(points: Iterable[Point]) -> str:
    """A short digest of points, in their order."""
    digest = hashlib.sha256()
    for point in points:
        digest.update(repr(point.key).encode())
    return digest.hexdigest()[:16]


_Lines = dict[int, dict[str, tuple[int, float]]]


def _read(path: Path) -> _Lines:
    """Time and value by step and name, the last write winning.

    Unlike `read_metrics`, each value keeps its own time: a step's evaluation is often written after
    its training loss, and must not move a point that was recorded in between.
    """
    lines: _Lines = {}

    def use(entry: dict[str, Any]) -> None:
        line = lines.setdefault(entry["step"], {})
        for name, value in entry["values"].items():
            line[name] = (entry["time_ms"], number_from(value))

    read_lines(path, use)
    return {step: values for step, values in lines.items() if values}


def _thinned(steps: list[int], lines: _Lines, total: int, ended: bool) -> list[int]:
    """The first step, each stride-th, each with an evaluation, and once the run ended the last."""
    stride = max(1, math.ceil(total / _POINTS_A_CURVE))
    kept = {steps[0]} if steps else set()
    if steps and ended:
        kept.add(steps[-1])
    return [
        step
        for step in steps
        if step in kept
        or step % stride == 0
        or any(name.startswith(_ALWAYS_KEPT) for name in lines[step])
    ]
