"""Factorial effects against least squares, written otherwise; gaps and divergence."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.factorial import Levels, effects, holm_over, pooled
from analysis.stats import Cell, Verdict

FACTORS = ("format", "reset", "clip")
COMBINATIONS = list(product((False, True), repeat=3))


def cells_of(losses: np.ndarray) -> dict[Levels, Cell]:
    """A cell for each combination; `losses` is [combinations, seeds]."""
    return {
        levels: Cell(str(levels), f"id{index}", dict(enumerate(map(float, losses[index]))))
        for index, levels in enumerate(COMBINATIONS)
    }


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), seeds=st.integers(2, 6))
def test_effects_are_those_of_least_squares_with_seeds_as_blocks(seed: int, seeds: int) -> None:
    """One regression on coded levels, their products and a column a seed; then one a seed."""
    random = np.random.default_rng(seed)
    losses = 5 + random.normal(size=(8, seeds)) + 3 * random.normal(size=(1, seeds))
    found = effects(FACTORS, cells_of(losses))
    assert len(found) == 7
    coded = np.array([[0.5 if on else -0.5 for on in levels] for levels in COMBINATIONS])
    columns = [
        np.prod([2 * coded[:, FACTORS.index(name)] for name in effect.factors], axis=0) / 2
        for effect in found
    ]
    blocks = np.kron(np.ones((8, 1)), np.eye(seeds))
    design = np.hstack([np.repeat(np.array(columns).T, seeds, axis=0), blocks])
    fitted = np.linalg.lstsq(design, losses.reshape(-1), rcond=None)[0][:7]
    alone = np.column_stack([np.ones(8), *columns])
    by_seed = np.linalg.lstsq(alone, losses, rcond=None)[0][1:]
    for index, effect in enumerate(found):
        difference = effect.comparison.difference
        assert difference is not None
        assert difference.mean == pytest.approx(fitted[index], abs=1e-9)
        test = scipy_stats.ttest_1samp(by_seed[index], 0.0)
        interval = test.confidence_interval(0.95)
        assert (difference.low, difference.high) == pytest.approx(tuple(interval), abs=1e-8)
        assert difference.p == pytest.approx(test.pvalue, abs=1e-8)


def test_a_known_interaction_is_found_and_the_rest_is_not() -> None:
    """The reset helps in bfloat16 alone: half of it is a main effect, half the interaction."""
    random = np.random.default_rng(1)
    losses = np.empty((8, 5))
    for index, (fp32, reset, _) in enumerate(COMBINATIONS):
        gain = 0.4 if reset and not fp32 else 0.0
        losses[index] = 5 - gain + 0.2 * np.arange(5) + 1e-3 * random.normal(size=5)
    by_name = {effect.name: effect for effect in holm_over(effects(FACTORS, cells_of(losses)))}
    for name, size in (("reset", -0.2), ("format × reset", 0.2), ("format", 0.2)):
        difference = by_name[name].comparison.difference
        assert difference is not None and difference.mean == pytest.approx(size, abs=2e-3)
    assert by_name["reset"].comparison.verdict is Verdict.HOLDS
    assert by_name["format × reset"].comparison.verdict is Verdict.FAILS
    for name in ("clip", "format × clip", "reset × clip"):
        assert by_name[name].comparison.verdict is Verdict.UNDECIDED


def test_only_the_effects_of_one_factor_and_holm_over_what_is_given() -> None:
    losses = np.random.default_rng(2).normal(size=(8, 3))
    found = effects(FACTORS, cells_of(losses), only="clip")
    assert [effect.name for effect in found] == [
        "clip",
        "format × clip",
        "reset × clip",
        "format × reset × clip",
    ]
    tested = holm_over(found)
    smallest = min(tested, key=lambda effect: effect.comparison.adjusted_p).comparison
    assert smallest.difference is not None
    assert smallest.adjusted_p == pytest.approx(min(1.0, 4 * smallest.difference.p))


def test_gaps_and_divergence_are_never_averaged() -> None:
    whole = Cell("a", "1", {0: 5.0, 1: 5.1, 2: 5.2})
    lost = Cell("b", "2", {0: 5.0, 2: 5.4}, diverged=frozenset({1}))
    late = Cell("c", "3", {0: 5.0, 1: 5.1}, incomplete={2: "running"})
    both = pooled("both", [whole, lost, late])
    assert dict(both.losses) == {0: 5.0}
    assert both.diverged == {1} and dict(both.incomplete) == {2: "running"}
    assert both.perplexity is None
    cells = dict.fromkeys(COMBINATIONS, whole) | {COMBINATIONS[3]: lost}
    assert {one.comparison.verdict for one in effects(FACTORS, cells)} == {Verdict.UNDECIDED}
    with pytest.raises(ValueError, match="7 cells"):
        effects(FACTORS, {levels: whole for levels in COMBINATIONS[:7]})
