"""Aggregates of scores over several tasks, with intervals, as rliable has them.

Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice": the
interquartile mean of all runs of all tasks, and the probability that a run of one method has a
higher score than a run of another on the same task. Intervals are percentiles of a stratified
bootstrap: the runs of each task are drawn anew among themselves, for each method on its own. It
promises the same numbers each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.stats import CONFIDENCE, Verdict

Scores = NDArray[np.float64]
"""[..., tasks, runs]: higher is better."""

RESAMPLES = 20_000
_STREAM = 20250228  # any number: the same resamples each time


@dataclass(frozen=True)
class Aggregate:
    """A value with its 95 % interval, and the two-sided p value of it being `neutral`."""

    value: float
    low: float
    high: float
    neutral: float
    p: float

    @property
    def verdict(self) -> Verdict:
        """Of the statement that it is larger than `neutral`."""
        if self.low > self.neutral:
            return Verdict.HOLDS
        return Verdict.FAILS if self.high < self.neutral else Verdict.UNDECIDED


@dataclass(frozen=True)
class Together:
    """Two methods over several tasks.

    Attributes:
        means: the interquartile mean of each.
        difference: that of the first less that of the second.
        improvement: the probability that the first improves on the second.
        on: the same probability by task.
    """

    means: tuple[Aggregate, Aggregate]
    difference: Aggregate
    improvement: Aggregate
    on: tuple[Aggregate, ...]


def together(first: Scores, second: Scores) -> Together:
    """Two methods' scores [tasks, runs], the same tasks in the same order."""
    pairs = zip(first, second, strict=True)
    return Together(
        (interquartile_mean_of(first), interquartile_mean_of(second)),
        difference_of(first, second),
        improvement_of(first, second),
        tuple(improvement_of(one[None], other[None]) for one, other in pairs),
    )


def interquartile_mean(scores: Scores) -> Scores:
    """The mean of the middle half of all runs of all tasks: [...].

    A quarter of the runs, rounded down, is left out at either end.
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    out = flat.shape[-1] // 4
    return np.asarray(flat[..., out : flat.shape[-1] - out].mean(axis=-1))


def probability_of_improvement(first: Scores, second: Scores) -> Scores:
    """How often a run of `first` beats one of `second`, a tie counting half: mean over tasks."""
    pairs = np.sign(first[..., :, None] - second[..., None, :])
    return np.asarray(((pairs + 1) / 2).mean(axis=(-1, -2, -3)))


def interquartile_mean_of(scores: Scores) -> Aggregate:
    """The interquartile mean of one method's scores [tasks, runs]."""
    return _aggregate(interquartile_mean(scores), interquartile_mean(_drawn(scores, 0)), 0.0)


def difference_of(first: Scores, second: Scores) -> Aggregate:
    """The interquartile mean of `first` less that of `second`."""
    return _compared(
        lambda one, other: interquartile_mean(one) - interquartile_mean(other), first, second, 0.0
    )


def improvement_of(first: Scores, second: Scores) -> Aggregate:
    """The probability that `first` improves on `second`."""
    return _compared(probability_of_improvement, first, second, 0.5)


def _compared(
    measure: Callable[[Scores, Scores], Scores], first: Scores, second: Scores, neutral: float
) -> Aggregate:
    drawn = measure(_drawn(first, 0), _drawn(second, 1))
    return _aggregate(measure(first, second), drawn, neutral)


def _drawn(scores: Scores, stream: int) -> Scores:
    """Resamples [RESAMPLES, tasks, runs]: each task's runs, drawn with replacement."""
    random = np.random.RandomState([_STREAM, stream])
    chosen = random.randint(scores.shape[-1], size=(RESAMPLES, *scores.shape))
    return np.take_along_axis(scores[None], chosen, axis=-1)


def _aggregate(value: Scores, drawn: Scores, neutral: float) -> Aggregate:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    # Rounding apart, a tie with `neutral` counts on both sides.
    below = np.count_nonzero(drawn <= neutral + 1e-12)
    above = np.count_nonzero(drawn >= neutral - 1e-12)
    p = min(1.0, 2 * (min(below, above) + 1) / (RESAMPLES + 1))
    return Aggregate(float(value), float(low), float(high), neutral, float(p))
