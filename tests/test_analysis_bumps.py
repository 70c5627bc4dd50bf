"""Bumps of made curves, and alignment against what random shifts give."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from analysis.bumps import (
    Bump,
    Rule,
    Window,
    bumps,
    by_chance,
    flags,
    near,
    residuals,
)

RULE = Rule(deviations=4)
BEFORE = Window("before", -10, -1)
AT = Window("at", 0, 0, to_end=True)
AFTER = Window("after", 1, 10, from_end=True)
CURVES = arrays(np.float64, st.integers(1, 90), elements=st.integers(-50, 50).map(float))


def training_loss(steps: int = 1000, seed: int = 0, noise: float = 0.05) -> np.ndarray:
    """A loss as of training: it falls from 10 to 4, in noise."""
    generator = np.random.default_rng(seed)
    return 4 + 6 * np.exp(-np.arange(steps) / 150) + noise * generator.standard_normal(steps)


def test_planted_bumps_are_found_where_they_are() -> None:
    loss = training_loss()
    loss[200:208] += 1.2
    loss[600:603] += [0.4, 0.9, 0.4]
    found = bumps(loss, RULE)
    assert [(bump.start, bump.end) for bump in found] == [(200, 207), (600, 602)]
    assert found[1].peak == 601
    assert found[1].height == pytest.approx(0.9, abs=0.2)
    assert bumps(loss, RULE, first_step=1)[1].peak == 602


def test_noise_alone_has_next_to_none() -> None:
    """Four deviations are passed by chance about once in 30,000 steps; the estimate adds some."""
    total = sum(len(bumps(training_loss(seed=seed), RULE)) for seed in range(10))
    assert total <= 5


def test_two_rises_near_each_other_are_one_bump() -> None:
    loss = training_loss(noise=0.01)
    loss[300:303] += 1
    loss[306:309] += 1
    loss[320:322] += 1
    assert [(b.start, b.end) for b in bumps(loss, RULE)] == [(300, 308), (320, 321)]


def test_a_flat_stretch_gives_no_bump_of_every_tremor() -> None:
    """The floor: noise that is small somewhere is measured by the whole curve's."""
    loss = training_loss(noise=0.05)
    calm = np.random.default_rng(3).standard_normal(300) * 1e-4
    loss[700:] = 4 + calm
    loss[850] += 0.002  # 20 of the calm stretch's own deviations
    assert [b for b in bumps(loss, RULE) if b.start > 750] == []
    assert [b.start for b in bumps(loss, Rule(deviations=4, floor=0.0)) if b.start > 750][:1] != []


def test_a_diverged_curve_has_no_bump_from_there() -> None:
    loss = training_loss(noise=0.01)
    loss[200:203] += 1
    loss[500:] = math.nan
    assert [b.start for b in bumps(loss, RULE)] == [200]
    assert bumps([math.nan] * 5, RULE) == []
    assert bumps([], RULE) == []


@given(CURVES, st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_baseline_and_spread_are_those_of_each_window(values: np.ndarray, window: int) -> None:
    """Written again, a step at a time, with the standard library."""
    curve = values.tolist()
    size = min(window, len(curve))
    half = size // 2
    expected_height, expected_spread = [], []
    for step, value in enumerate(curve):
        start = min(max(step - half, 0), len(curve) - size)
        part = curve[start : start + size]
        slope = (median(part[-half:]) - median(part[:half])) / (size - half) if half else 0.0
        level = [y - slope * (start + place - step) for place, y in enumerate(part)]
        baseline = median(level)
        expected_height.append(value - baseline)
        expected_spread.append(1.4826 * median(abs(y - baseline) for y in level))
    least = 0.5 * 1.4826 * median(abs(y) for y in expected_height)
    height, spread = residuals(values, Rule(window=window))
    assert height == pytest.approx(expected_height, abs=1e-9)
    assert spread == pytest.approx([max(s, least) for s in expected_spread], abs=1e-9)


@given(CURVES, st.integers(-20, 20), st.sampled_from([0.25, 2.0, 64.0]))
@settings(max_examples=60, deadline=None)
def test_bumps_do_not_depend_on_units(values: np.ndarray, shift: int, factor: float) -> None:
    rule = Rule(window=11)
    moved = [(b.start, b.end, b.peak) for b in bumps(values * factor + shift, rule)]
    assert moved == [(b.start, b.end, b.peak) for b in bumps(values, rule)]


@given(CURVES)
@settings(max_examples=60, deadline=None)
def test_bumps_are_apart_above_and_in_order(values: np.ndarray) -> None:
    rule = Rule(window=11, deviations=2, gap=3)
    found = bumps(values, rule)
    height, spread = residuals(values, rule)
    for bump in found:
        assert bump.start <= bump.peak <= bump.end
        assert bump.height == height[bump.peak] == height[bump.start : bump.end + 1].max()
        assert height[bump.start] > 2 * spread[bump.start]
    assert all(b.start - a.end > rule.gap for a, b in pairwise(found))
    inside = flags(found, len(values))
    assert not (~inside & (height > 2 * spread)).any()


def test_windows_around_a_bump() -> None:
    bump = Bump(100, 104, 102, 1.0)
    assert [w.span(bump) for w in (BEFORE, AT, AFTER)] == [(90, 99), (100, 104), (105, 114)]
    marked = np.zeros(200, dtype=np.bool_)
    marked[99] = True
    assert [bool(near([bump], marked, w)[0]) for w in (BEFORE, AT, AFTER)] == [True, False, False]
    assert near([Bump(2, 3, 2, 1.0)], marked, BEFORE).tolist() == [False]


@given(
    arrays(np.bool_, 40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 4)), min_size=1, max_size=4),
    st.sampled_from([BEFORE, AT, AFTER]),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_by_chance_shifts_marks_around_the_end(
    marked: np.ndarray, places: list[tuple[int, int]], window: Window, first: int
) -> None:
    """The expected number is the mean over every roll of the marks, drawn one by one."""
    found = [Bump(s + first, min(39, s + n) + first, s + first, 1.0) for s, n in places]
    rolled = [int(near(found, np.roll(marked, s), window, first).sum()) for s in range(40)]
    chance = by_chance([(found, marked)], window, first, shifts=4000)
    assert chance.seen == rolled[0]
    assert chance.among == len(found)
    assert chance.expected == pytest.approx(np.mean(rolled), abs=6 * np.std(rolled) / 60 + 1e-9)
    share = np.mean(np.asarray(rolled) >= rolled[0])
    assert chance.more == pytest.approx(share, abs=0.05)


def made(seed: int, lag: int | None) -> tuple[list[Bump], np.ndarray]:
    """Ten bumps, and bursts at random (`lag` None) or so many steps before each bump."""
    generator = np.random.default_rng(seed)
    starts = np.sort(generator.choice(np.arange(50, 950, 20), 10, replace=False))
    found = [Bump(int(s), int(s) + 2, int(s), 1.0) for s in starts]
    marked = np.zeros(1000, dtype=np.bool_)
    marked[starts - lag if lag else generator.choice(1000, 10, replace=False)] = True
    return found, marked


def test_bursts_before_bumps_are_told_from_chance() -> None:
    tied = by_chance([made(seed, 3) for seed in range(3)], BEFORE)
    assert (tied.seen, tied.among) == (30, 30)
    assert tied.more < 0.001
    after = by_chance([made(seed, 3) for seed in range(3)], AFTER)
    assert after.more > 0.05


def test_unrelated_bursts_are_called_related_no_more_often_than_stated() -> None:
    p_values = [by_chance([made(seed, None)], BEFORE, shifts=499).more for seed in range(200)]
    assert sum(p < 0.05 for p in p_values) <= 20
    assert min(p_values) > 0
    assert np.mean(p_values) > 0.4


def test_without_bumps_nothing_is_seen_and_nothing_follows() -> None:
    chance = by_chance([([], np.zeros(10, dtype=np.bool_))], BEFORE)
    assert (chance.seen, chance.among, chance.more, chance.fewer) == (0, 0, 1.0, 1.0)
