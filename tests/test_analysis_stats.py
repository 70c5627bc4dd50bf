"""Statistics over seeds: SciPy as an independent judge, and the verdict rules one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.stats import (
    Cell,
    Verdict,
    all_of,
    compare,
    corrected,
    holm,
    mean_interval,
    paired_difference,
    standardized,
)

LOSS = st.floats(min_value=0.5, max_value=12, allow_nan=False)
PAIRS = st.lists(st.tuples(LOSS, LOSS), min_size=2, max_size=8)
ORDER = {Verdict.FAILS: 0, Verdict.UNDECIDED: 1, Verdict.HOLDS: 2}


def cell(*losses: float, name: str = "a", diverged: int = 0, missing: int = 0) -> Cell:
    """A cell with these losses at seeds 0, 1, ...; then diverged and missing seeds."""
    n = len(losses)
    return Cell(
        name,
        cell_id=name,
        losses=dict(enumerate(losses)),
        diverged=frozenset(range(n, n + diverged)),
        incomplete={seed: "missing" for seed in range(n + diverged, n + diverged + missing)},
    )


def test_mean_and_interval_by_hand() -> None:
    estimate = mean_interval([1.0, 2.0, 3.0])
    # sd 1, so the half-width is t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051.
    assert estimate.mean == 2.0
    assert estimate.half_width == pytest.approx(2.484138, abs=1e-6)


def test_one_value_has_no_interval_and_none_is_an_error() -> None:
    estimate = mean_interval([5.0])
    assert (estimate.n, estimate.mean, estimate.has_interval) == (1, 5.0, False)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_paired_difference_agrees_with_scipy(pairs: list[tuple[float, float]]) -> None:
    differences = [a - b for a, b in pairs]
    # A spread at the level of rounding gives a t value that is rounding too.
    assume(max(differences) - min(differences) > 1e-6)
    first, second = ({i: p[k] for i, p in enumerate(pairs)} for k in (0, 1))
    ours = paired_difference(first, second)
    theirs = scipy_stats.ttest_rel([p[0] for p in pairs], [p[1] for p in pairs])
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-9)
    assert ours.low == pytest.approx(interval.low, rel=1e-6, abs=1e-7)
    assert ours.high == pytest.approx(interval.high, rel=1e-6, abs=1e-7)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_the_effect_is_scipys_t_without_its_bias(pairs: list[tuple[float, float]]) -> None:
    """d_z is t over the root of n; SciPy's noncentral t says how far off that is on average."""
    differences = [a - b for a, b in pairs]
    assume(len(pairs) > 2 and max(differences) - min(differences) > 1e-6)
    first, second = ({i: p[k] for i, p in enumerate(pairs)} for k in (0, 1))
    n = len(pairs)
    biased = scipy_stats.ttest_1samp(differences, 0).statistic / math.sqrt(n)
    inflation = scipy_stats.nct.mean(n - 1, math.sqrt(n)) / math.sqrt(n)
    assert paired_difference(first, second).effect == pytest.approx(biased / inflation, rel=1e-6)


def test_the_effect_is_right_on_average() -> None:
    draws = np.random.default_rng(0).normal(1.5, 1.0, size=(40_000, 4))
    effects = [standardized(list(row)) for row in draws]
    assert np.mean(effects) == pytest.approx(1.5, abs=0.05)


def test_no_effect_without_spread_or_with_two_seeds() -> None:
    assert math.isnan(standardized([0.5, 0.5, 0.5]))
    assert math.isnan(standardized([0.1, 0.4]))
    assert math.isnan(standardized([]))


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_swapping_the_cells_swaps_the_verdict(pairs: list[tuple[float, float]]) -> None:
    first, second = cell(*[p[0] for p in pairs]), cell(*[p[1] for p in pairs], name="b")
    forward, back = compare(first, second), compare(second, first)
    assert ORDER[forward.verdict] == 2 - ORDER[back.verdict]
    assert forward.difference and back.difference
    assert forward.difference.mean == pytest.approx(-back.difference.mean)


@given(PAIRS, st.floats(min_value=-0.4, max_value=5))
@settings(max_examples=60, deadline=None)
def test_a_common_shift_changes_nothing(pairs: list[tuple[float, float]], shift: float) -> None:
    first, second = ({i: p[k] for i, p in enumerate(pairs)} for k in (0, 1))
    plain = paired_difference(first, second)
    moved = paired_difference(*({i: v + shift for i, v in d.items()} for d in (first, second)))
    assert moved.mean == pytest.approx(plain.mean, abs=1e-9)
    assert moved.high - moved.low == pytest.approx(plain.high - plain.low, abs=1e-8)


@given(PAIRS, st.floats(min_value=0, max_value=3))
@settings(max_examples=60, deadline=None)
def test_a_better_cell_never_gets_a_worse_verdict(
    pairs: list[tuple[float, float]], gain: float
) -> None:
    differences = [a - b for a, b in pairs]
    assume(max(differences) - min(differences) > 1e-6)
    worse = cell(*[p[1] for p in pairs], name="b")
    before = compare(cell(*[p[0] for p in pairs]), worse).verdict
    after = compare(cell(*[p[0] - gain for p in pairs]), worse).verdict
    assert ORDER[after] >= ORDER[before]


def test_common_seeds_only_are_paired() -> None:
    first = {0: 1.0, 1: 2.0, 2: 9.0}
    second = {0: 1.5, 1: 2.4, 7: 0.0}
    difference = paired_difference(first, second)
    assert difference.n == 2
    assert difference.mean == pytest.approx(-0.45)
    assert difference.ratio == pytest.approx(math.exp(-0.45))


def test_verdict_follows_the_interval() -> None:
    low, high = cell(3.0, 3.01, 2.99), cell(3.5, 3.52, 3.48, name="b")
    noisy = cell(3.0, 4.0, 2.0, name="c")
    assert compare(low, high).verdict is Verdict.HOLDS
    assert compare(high, low).verdict is Verdict.FAILS
    assert compare(low, noisy).verdict is Verdict.UNDECIDED


def test_equal_differences_give_a_point_interval() -> None:
    difference = paired_difference({0: 1.0, 1: 2.0}, {0: 1.5, 1: 2.5})
    assert (difference.low, difference.high, difference.p) == (-0.5, -0.5, 0.0)
    assert paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1.0


@pytest.mark.parametrize(
    ("better", "worse", "verdict", "reason"),
    [
        (cell(3.0), cell(4.0, name="b"), "undecided", "one seed"),
        (cell(3.0, 3.0), cell(4.0, 4.1, name="b", missing=1), "undecided", "1 of 3 runs of b"),
        (cell(3.0, 3.1), cell(3.0, 3.1), "undecided", "the same runs"),
        (cell(3.0, 3.1), cell(name="b", diverged=2), "holds", "all 2 runs of b diverged"),
        (cell(diverged=2), cell(4.0, 4.1, name="b"), "fails", "all 2 runs of a diverged"),
        (cell(3.0, 3.1), cell(4.0, name="b", diverged=1), "undecided", "1 of 2 runs of b diverged"),
        (cell(3.0, diverged=1), cell(name="b", diverged=2), "undecided", "1 of 2 runs of a"),
        (cell(diverged=2), cell(name="b", diverged=2), "undecided", "a and b diverged"),
        (cell(diverged=2, missing=1), cell(4.0, 4.1, name="b"), "undecided", "missing"),
        (cell(diverged=1), cell(4.0, name="b"), "undecided", "one seed"),
        (Cell("nobody"), cell(4.0, 4.1, name="b"), "undecided", "not asked for"),
        (
            cell(3.0, 3.1),
            Cell("b", "b", losses={1: 3.0, 2: 3.1}),
            "undecided",
            "1 seeds in common",
        ),
    ],
)
def test_what_cannot_be_tested(better: Cell, worse: Cell, verdict: str, reason: str) -> None:
    comparison = compare(better, worse)
    assert comparison.verdict == verdict
    assert comparison.difference is None
    assert reason in comparison.reason


def test_a_cell_with_a_diverged_seed_has_no_mean() -> None:
    assert cell(3.0, 3.1, diverged=1).perplexity is None
    estimate = cell(3.0, 3.1, missing=1).perplexity
    assert estimate is not None
    assert estimate.n == 2


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=8))
@settings(deadline=None)
def test_holm_lies_between_no_correction_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, new in zip(p_values, adjusted, strict=True):
        assert p <= new <= min(1.0, len(p_values) * p)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_correction_counts_tests_that_could_not_be_made() -> None:
    good, bad = cell(3.0, 3.01, 2.99), cell(3.1, 3.16, 3.04, name="b")
    gap = cell(3.1, 3.2, name="c", missing=1)
    alone = corrected([compare(good, bad)])[0]
    beside = corrected([compare(good, bad), compare(good, gap)])[0]
    assert alone.adjusted_p == alone.difference.p  # type: ignore[union-attr]
    assert beside.adjusted_p == pytest.approx(2 * alone.adjusted_p)
    assert 0.025 < alone.adjusted_p < 0.1


def test_correction_can_only_withdraw_a_verdict() -> None:
    good = cell(3.0, 3.01, 2.99)
    near = cell(3.1, 3.15, 3.06, name="b")
    single = compare(good, near)
    assert single.difference is not None
    assert single.verdict is Verdict.HOLDS
    assert 0.01 < single.difference.p < 0.05
    crowd = corrected([single, *[compare(good, cell(3, 3.02, 2.97, name=n)) for n in "cdefg"]])
    assert crowd[0].verdict is Verdict.UNDECIDED


def test_composite_rule() -> None:
    holds, fails, undecided = Verdict.HOLDS, Verdict.FAILS, Verdict.UNDECIDED
    assert all_of([holds, holds]) is holds
    assert all_of([holds, undecided]) is undecided
    assert all_of([holds, undecided, fails]) is fails
    assert all_of([]) is undecided
