"""Aggregates of scores over several tasks, with intervals, as rliable has them.

Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice": the
interquartile mean of all runs of all tasks, and the probability that a run of one method has a
higher score than a run of another on the same task. Intervals are percentiles of a stratified
bootstrap: the runs of each task are drawn anew among themselves, for each method on its own. A
bootstrap of few runs is too sure, so that a test is not read off it: the test exchanges the two
methods within pairs of runs (same task, same seed), which is exact however few there are. It
promises the same numbers each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test

from analysis.stats import CONFIDENCE, Verdict

Scores = NDArray[np.float64]
"""[..., tasks, runs]: higher is better."""

RESAMPLES = 20_000
EXCHANGES = 2**15
"""Exchanges of methods within pairs: all there are for 15 pairs, of more as many at random."""

_STREAM = 20250228  # any number: the same resamples each time


@dataclass(frozen=True)
class Aggregate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared(Aggregate):
    """What compares two methods; `p`, two-sided, is of them being equal, which gives `neutral`."""

    neutral: float
    p: float

    @property
    def verdict(self) -> Verdict:
        """Of the statement that it is larger than `neutral`."""
        if self.p >= 1 - CONFIDENCE:
            return Verdict.UNDECIDED
        return Verdict.HOLDS if self.value > self.neutral else Verdict.FAILS


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
    difference: Compared
    improvement: Compared
    on: tuple[Compared, ...]


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
    value = interquartile_mean(scores)
    return Aggregate(float(value), *_interval(interquartile_mean(_drawn(scores, 0))))


def difference_of(first: Scores, second: Scores) -> Compared:
    """The interquartile mean of `first` less that of `second`, run i of each of one seed."""
    return _compared(
        lambda one, other: interquartile_mean(one) - interquartile_mean(other), first, second, 0.0
    )


def improvement_of(first: Scores, second: Scores) -> Compared:
    """The probability that `first` improves on `second`."""
    return _compared(probability_of_improvement, first, second, 0.5)


def _compared(
    measure: Callable[[Scores, Scores], Scores], first: Scores, second: Scores, neutral: float
) -> Compared:
    def of_flat(one: Scores, other: Scores, axis: int) -> Scores:
        """The measure of runs in a row, as SciPy exchanges them."""
        moved = [np.moveaxis(scores, axis, -1) for scores in (one, other)]
        return measure(*(scores.reshape(*scores.shape[:-1], *first.shape) for scores in moved))

    exchanged = permutation_test(
        (first.reshape(-1), second.reshape(-1)),
        of_flat,
        permutation_type="samples",
        n_resamples=EXCHANGES,
        vectorized=True,
        rng=np.random.default_rng(_STREAM),
    )
    interval = _interval(measure(_drawn(first, 0), _drawn(second, 1)))
    return Compared(float(measure(first, second)), *interval, neutral, float(exchanged.pvalue))


def _drawn(scores: Scores, stream: int) -> Scores:
    """Resamples [RESAMPLES, tasks, runs]: each task's runs, drawn with replacement."""
    random = np.random.RandomState([_STREAM, stream])
    chosen = random.randint(scores.shape[-1], size=(RESAMPLES, *scores.shape))
    return np.take_along_axis(scores[None], chosen, axis=-1)


def _interval(drawn: Scores) -> tuple[float, float]:
    """Of the resamples' measures, where the middle 95 % lie."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)
