"""Statistics over seeds: means with 95 % t intervals, paired differences in loss, and verdicts.

The rules, stated once. A comparison asserts that one cell has the lower loss (log-perplexity).
Over the seeds that both cells have, the mean of the paired differences gets a two-sided 95 % t
interval: wholly below zero the assertion `holds`, wholly above zero it `fails`, otherwise it is
`undecided`. It is also undecided with fewer than two seeds, where a run of either cell is missing
or unfinished, and where the two cells are the same runs. A run that diverged has no loss and is
never averaged: a cell whose seeds all diverged is worse than any cell without divergence, and a
cell of which only some seeds diverged decides nothing. Where one claim needs several comparisons,
`corrected` applies Holm's step-down method, so that the chance of any wrong verdict among them
stays below 5 %. Beside each difference stands its size in standard deviations of the paired
differences, d_z, corrected for the few seeds that the deviation is known from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Verdict(StrEnum):
    """What the runs say about an assertion."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds; `half_width` of its interval is NaN where n < 2."""

    n: int
    mean: float
    half_width: float

    @property
    def has_interval(self) -> bool:
        """Whether there were seeds enough for an interval."""
        return math.isfinite(self.half_width)


@dataclass(frozen=True)
class Difference:
    """The mean paired difference in loss over `n` seeds, its interval and two-sided p value.

    `effect` is Hedges' unbiased estimate of Cohen's d_z, the mean over the standard deviation of
    the paired differences; NaN with two seeds, where it has no expectation, and where all
    differences are equal.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    effect: float = math.nan

    @property
    def ratio(self) -> float:
        """The ratio of the two (geometric mean) perplexities."""
        return math.exp(self.mean)


@dataclass(frozen=True)
class Cell:
    """The runs of one cell, by seed: losses of the finished ones, and the others by fate.

    `incomplete` maps a seed to its state. A cell with no seed at all is one that nobody asked for.
    """

    name: str
    cell_id: str = ""
    losses: Mapping[int, float] = field(default_factory=dict)
    diverged: frozenset[int] = frozenset()
    incomplete: Mapping[int, str] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """How many runs were asked for."""
        return len(self.losses) + len(self.diverged) + len(self.incomplete)

    @property
    def perplexities(self) -> list[float]:
        """exp(loss) of the finished runs, by seed."""
        return [math.exp(self.losses[seed]) for seed in sorted(self.losses)]

    @property
    def perplexity(self) -> Estimate | None:
        """The mean perplexity; None where no run finished, or where any run diverged."""
        if not self.losses or self.diverged:
            return None
        return mean_interval(self.perplexities)


@dataclass(frozen=True)
class Comparison:
    """The assertion that `better` has a lower loss than `worse`, and what the runs say of it.

    `difference` is loss(better) - loss(worse); None, with a `reason`, where no test was possible.
    `adjusted_p` is the p value after Holm's correction.
    """

    better: Cell
    worse: Cell
    verdict: Verdict
    difference: Difference | None = None
    adjusted_p: float = math.nan
    reason: str = ""


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean with the half-width of its t interval."""
    n = len(values)
    if n == 0:
        raise ValueError("no values to take a mean of")
    if n == 1:
        return Estimate(1, float(values[0]), math.nan)
    spread = _standard_error(values)
    return Estimate(n, _mean(values), float(stats.t.ppf((1 + confidence) / 2, n - 1)) * spread)


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference:
    """first - second over the seeds that both have, at least two.

    Where every seed gives exactly the same difference the interval is that point.
    """
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        raise ValueError(f"a paired difference needs two common seeds, there are {len(seeds)}")
    differences = [first[seed] - second[seed] for seed in seeds]
    estimate = mean_interval(differences, confidence)
    mean, half = estimate.mean, estimate.half_width
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(seeds) - 1))
    if half > 0:
        p = float(2 * stats.t.sf(abs(mean) * quantile / half, len(seeds) - 1))
    else:
        p = 1.0 if mean == 0 else 0.0
    effect = standardized(differences)
    return Difference(len(seeds), mean, mean - half, mean + half, p, effect)


def standardized(differences: Sequence[float]) -> float:
    """Cohen's d_z of paired differences, without the bias of few pairs (Hedges 1981, J).

    The mean over the standard deviation is, on average, too large by a known factor, 1.77 with
    three pairs; it is divided by that. NaN with fewer than three pairs or without any spread.
    """
    freedom = len(differences) - 1
    spread = _standard_error(differences) * math.sqrt(freedom + 1) if freedom > 1 else 0.0
    if spread == 0:
        return math.nan
    unbiased = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2))
    return unbiased / math.sqrt(freedom / 2) * _mean(differences) / spread


def compare(better: Cell, worse: Cell) -> Comparison:
    """Test whether `better` has a lower loss than `worse`; the rules are in the module's text."""
    reason = _obstacle(better, worse)
    if reason:
        return Comparison(better, worse, Verdict.UNDECIDED, reason=reason)
    if better.diverged or worse.diverged:
        verdict = Verdict.HOLDS if worse.diverged else Verdict.FAILS
        lost = worse if worse.diverged else better
        reason = f"all {len(lost.diverged)} runs of {lost.name} diverged"
        return Comparison(better, worse, verdict, reason=reason)
    difference = paired_difference(better.losses, worse.losses)
    return Comparison(better, worse, _side(difference), difference, difference.p)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one claim, with Holm's correction for how many there are.

    A verdict whose adjusted p value is not below 5 % becomes undecided. Comparisons without a p
    value count in the number of tests, so a missing cell never makes the others easier.
    """
    tests = [comparison.difference for comparison in comparisons]
    adjusted = holm([1.0 if test is None else test.p for test in tests])
    result = []
    for comparison, p in zip(comparisons, adjusted, strict=True):
        if comparison.difference is None:
            result.append(comparison)
            continue
        verdict = comparison.verdict if p < 1 - CONFIDENCE else Verdict.UNDECIDED
        result.append(replace(comparison, verdict=verdict, adjusted_p=p))
    return result


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """A composite: fails where any part fails, holds where all hold, otherwise undecided."""
    if Verdict.FAILS in verdicts:
        return Verdict.FAILS
    if verdicts and all(verdict is Verdict.HOLDS for verdict in verdicts):
        return Verdict.HOLDS
    return Verdict.UNDECIDED


def _obstacle(better: Cell, worse: Cell) -> str:
    """Why the two cells cannot be compared; empty where they can."""
    for cell in (better, worse):
        if cell.seeds == 0:
            return f"{cell.name} was not asked for"
        if cell.incomplete:
            states = ", ".join(sorted(set(cell.incomplete.values())))
            return f"{len(cell.incomplete)} of {cell.seeds} runs of {cell.name} are {states}"
    if better.cell_id and better.cell_id == worse.cell_id:
        return f"{better.name} and {worse.name} are the same runs at this scale"
    for cell in (better, worse):
        if cell.seeds < 2:
            return f"{cell.name} has one seed: no interval"
        if cell.diverged and cell.losses:
            return f"{len(cell.diverged)} of {cell.seeds} runs of {cell.name} diverged"
    if better.diverged and worse.diverged:
        return f"all runs of {better.name} and {worse.name} diverged"
    if not (better.diverged or worse.diverged):
        common = len(better.losses.keys() & worse.losses.keys())
        if common < 2:
            return f"{better.name} and {worse.name} have {common} seeds in common"
    return ""


def _side(difference: Difference) -> Verdict:
    if difference.high < 0:
        return Verdict.HOLDS
    return Verdict.FAILS if difference.low > 0 else Verdict.UNDECIDED


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(np.asarray(values, dtype=float)))


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(np.asarray(values, dtype=float), ddof=1) / math.sqrt(len(values)))
