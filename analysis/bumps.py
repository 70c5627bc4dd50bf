"""Bumps: where a curve rises above its own recent level, by one stated rule, and chance alignment.

A step belongs to a bump where the curve lies more than `deviations` robust standard deviations
above its baseline. Both come from the `window` steps around it (centred; at the ends of a run the
first or last so many). The curve's slope there is the median of the window's second half less that
of its first, over their distance; the baseline is the median of the window with that slope taken
out, and the robust standard deviation 1.4826 times the median distance from it, though never less
than `floor` times the same over all steps, so that a calm stretch does not make a bump of every
tremor. Steps of a bump that are at most `gap` apart are one bump. The same rule finds bumps of the
training loss and bursts in the number of spikes a step.

Whether bursts stand near bumps more often than by chance is asked of circular shifts: all bursts of
a run are moved along the run by the same random number of steps, and around its end, which keeps
their number and their distances and breaks their tie to the bumps. It assumes no distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

NORMAL = 1.4826
"""Median absolute deviations to standard deviations of a normal distribution."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """When a rise is a bump. `window` and `gap` are in steps, `deviations` in robust standard
    deviations; `floor` is a share of the whole curve's."""

    window: int = 51
    deviations: float = 3.0
    gap: int = 5
    floor: float = 0.5

    def __str__(self) -> str:
        return (
            f"more than {self.deviations:g} robust standard deviations above the running median, "
            f"both from the {self.window} steps around, with their slope taken out; the deviation "
            f"is 1.4826 times the median distance, at least {self.floor:g} times that of the whole "
            f"curve; steps at most {self.gap} apart are one"
        )


@dataclass(frozen=True)
class Bump:
    """One rise: its first step, its last, and its highest; `height` is that above the baseline."""

    start: int
    end: int
    peak: int
    height: float


@dataclass(frozen=True)
class Chance:
    """How often something was seen, how often random shifts give it, and one-sided p values.

    `more` is the share of shifts, what was seen counted among them, that give at least as many,
    `fewer` the share that give at most as many; both are 1 where nothing could be seen.
    """

    seen: int
    among: int
    expected: float
    more: float
    fewer: float


def residuals(values: Floats, rule: Rule) -> tuple[Floats, Floats]:
    """Each step's height above its baseline, and the robust standard deviation there."""
    steps = np.arange(len(values))
    size = min(rule.window, len(values))
    starts = np.clip(steps - size // 2, 0, len(values) - size)
    windows = np.lib.stride_tricks.sliding_window_view(values, size)[starts]
    offsets = starts[:, None] + np.arange(size)[None, :] - steps[:, None]
    half = size // 2
    rise = np.zeros(len(values))
    if half:
        rise = np.median(windows[:, -half:], axis=1) - np.median(windows[:, :half], axis=1)
    level = windows - rise[:, None] / (size - half) * offsets
    baseline = np.median(level, axis=1)
    spread = NORMAL * np.median(np.abs(level - baseline[:, None]), axis=1)
    height = np.asarray(values - baseline, dtype=np.float64)
    least = rule.floor * NORMAL * float(np.median(np.abs(height)))
    return height, np.maximum(spread, least)


def bumps(values: Sequence[float] | Floats, rule: Rule, first_step: int = 0) -> list[Bump]:
    """The bumps of a curve in order; `first_step` is the step of its first value.

    A curve that is not finite from some step on has no bumps from there: it diverged.
    """
    curve = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(curve)
    if not finite.all():
        curve = curve[: int(np.argmin(finite))]
    if not len(curve):
        return []
    height, spread = residuals(curve, rule)
    above = np.flatnonzero((height > rule.deviations * spread) & (height > 0))
    if not len(above):
        return []
    parts = np.split(above, np.flatnonzero(np.diff(above) > rule.gap) + 1)
    return [_bump(part, height, first_step) for part in parts]


def _bump(steps: NDArray[np.intp], height: Floats, first_step: int) -> Bump:
    peak = int(steps[np.argmax(height[steps])])
    start, end = int(steps[0]), int(steps[-1])
    return Bump(start + first_step, end + first_step, peak + first_step, float(height[peak]))


@cache
def in_noise(rule: Rule, steps: int, curves: int = 50, seed: int = 0) -> float:
    """How many bumps a curve of independent normal noise has, on average over `curves` of them."""
    generator = np.random.default_rng(seed)
    return sum(len(bumps(generator.standard_normal(steps), rule)) for _ in range(curves)) / curves


def flags(found: Sequence[Bump], steps: int, first_step: int = 0) -> Flags:
    """bool [steps]: which steps belong to one of the bumps."""
    marked = np.zeros(steps, dtype=np.bool_)
    for bump in found:
        marked[bump.start - first_step : bump.end - first_step + 1] = True
    return marked


@dataclass(frozen=True)
class Window:
    """Steps around a bump: from `first` to `last`, counted from its start (or from its end).

    Before a bump is Window("before", -10, -1); at it, Window("at", 0, 0, to_end=True), from its
    start to its end; after it, Window("after", 1, 10, from_end=True).
    """

    name: str
    first: int
    last: int
    from_end: bool = False
    to_end: bool = False

    def span(self, bump: Bump) -> tuple[int, int]:
        """The first and last step of the window around a bump."""
        begin = bump.end if self.from_end else bump.start
        finish = bump.end if self.from_end or self.to_end else bump.start
        return begin + self.first, finish + self.last


def near(found: Sequence[Bump], marked: Flags, window: Window, first_step: int = 0) -> Flags:
    """bool [bumps]: which bumps have a marked step in their window."""
    result = np.zeros(len(found), dtype=np.bool_)
    for number, bump in enumerate(found):
        first, last = window.span(bump)
        result[number] = marked[max(0, first - first_step) : max(0, last - first_step + 1)].any()
    return result


def by_chance(
    runs: Sequence[tuple[Sequence[Bump], Flags]],
    window: Window,
    first_step: int = 0,
    shifts: int = 4999,
    seed: int = 0,
) -> Chance:
    """How many bumps of all runs have a marked step in their window, against circular shifts.

    Every run is shifted by a number of its own. The same seed gives the same p values.
    """
    generator = np.random.default_rng(seed)
    seen, among = 0, 0
    shifted = np.zeros(shifts, dtype=np.int64)
    for found, marked in runs:
        seen += int(near(found, marked, window, first_step).sum())
        among += len(found)
        counts = _every_shift(found, marked, window, first_step)
        shifted += counts[generator.integers(len(marked), size=shifts)]
    more = (1 + int((shifted >= seen).sum())) / (1 + shifts)
    fewer = (1 + int((shifted <= seen).sum())) / (1 + shifts)
    return Chance(seen, among, float(shifted.mean()), more, fewer)


def _every_shift(
    found: Sequence[Bump], marked: Flags, window: Window, first_step: int
) -> NDArray[np.int64]:
    """int [steps]: how many bumps have a marked step in their window, for each shift."""
    steps = len(marked)
    counts = np.zeros(steps, dtype=np.int64)
    places = np.flatnonzero(marked)
    for bump in found:
        first, last = window.span(bump)
        inside = np.arange(max(0, first - first_step), min(steps, last - first_step + 1))
        # A shift s puts the mark of step p on step (p + s) % steps.
        hit = np.zeros(steps, dtype=np.bool_)
        hit[np.unique((inside[:, None] - places[None, :]) % steps)] = True
        counts += hit
    return counts
