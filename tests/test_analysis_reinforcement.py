"""Aggregates of scores against SciPy, and what the exhibit says of runs that are better, worse,
alike, diverged or missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.text import Text
from scipy import stats

from analysis import aggregates, reinforcement
from analysis.exhibit import Exhibit, markdown
from analysis.frames import table_of
from analysis.ledger import claim_p
from spam_lab.orchestrate.expand import Request, expand
from spam_lab.record.metrics import MetricWriter
from spam_lab.record.store import RunDirectory
from sweeps import reinforcement as asked
from tests.analysis_store import Outcome, recorded_in_memory

SCORES = arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(2, 7)), elements=st.floats(-2, 2, width=16)
)

Returns = Callable[[Any], float | Outcome | None]


@given(SCORES)
def test_the_interquartile_mean_is_scipys_trimmed_mean(scores: np.ndarray) -> None:
    expected = stats.trim_mean(scores, 0.25, axis=None)
    assert aggregates.interquartile_mean(scores) == pytest.approx(expected)


@given(SCORES, st.integers(0, 2**31))
def test_the_probability_of_improvement_is_mann_whitneys(scores: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).permuted(scores, axis=1).round(1)
    expected = [
        stats.mannwhitneyu(one, two).statistic / len(one) ** 2
        for one, two in zip(scores, other, strict=True)
    ]
    found = aggregates.probability_of_improvement(scores, other)
    assert found == pytest.approx(np.mean(expected))


def test_intervals_are_those_of_scipys_bootstrap_task_by_task() -> None:
    """Resampling runs within each task is what SciPy does with one sample a task."""
    random = np.random.default_rng(3)
    first = random.normal(0.6, 0.2, (3, 5)) + np.array([[0.0], [0.5], [1.0]])
    second = random.normal(0.5, 0.2, (3, 5)) + np.array([[0.0], [0.5], [1.0]])

    def difference(*tasks: np.ndarray, axis: int) -> Any:
        moved = [np.moveaxis(task, axis, -1) for task in tasks]
        one, other = (np.concatenate(part, axis=-1) for part in (moved[:3], moved[3:]))
        return stats.trim_mean(one, 0.25, axis=-1) - stats.trim_mean(other, 0.25, axis=-1)

    expected = stats.bootstrap(
        (*first, *second), difference, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    found = aggregates.difference_of(first, second)
    assert found.value == pytest.approx(difference(*first, *second, axis=-1))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert found == aggregates.difference_of(first, second), "the same numbers each time"


def test_the_p_value_counts_all_exchanges_of_methods_within_pairs() -> None:
    """Counted one by one, with SciPy's trimmed mean: 2^6 exchanges of two tasks and three seeds."""
    random = np.random.default_rng(5)
    first, second = random.normal(0.6, 0.3, (2, 3)), random.normal(0.0, 0.3, (2, 3))

    def difference(swapped: tuple[bool, ...]) -> float:
        where = np.array(swapped).reshape(2, 3)
        one, other = np.where(where, second, first), np.where(where, first, second)
        return float(
            stats.trim_mean(one, 0.25, axis=None) - stats.trim_mean(other, 0.25, axis=None)
        )

    all_of_them = [difference(swapped) for swapped in product((False, True), repeat=6)]
    observed = difference((False,) * 6)
    expected = 2 * np.mean([value >= observed - 1e-12 for value in all_of_them])
    assert 0 < expected < 0.5
    assert aggregates.difference_of(first, second).p == pytest.approx(expected)


def test_two_equal_methods_are_told_apart_in_one_of_twenty() -> None:
    """What a bootstrap of five runs does not keep: 300 pairs of methods that are the same."""
    random = np.random.default_rng(11)
    p = [aggregates.difference_of(*random.normal(size=(2, 1, 8))).p for _ in range(300)]
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


@settings(max_examples=10)
@given(SCORES)
def test_the_verdict_and_its_p_value_agree(scores: np.ndarray) -> None:
    same = aggregates.together(scores, scores)
    assert same.difference.verdict == same.improvement.verdict == "undecided"
    assert same.difference.p == 1.0 and same.improvement.value == 0.5


def test_a_method_that_is_better_everywhere_holds_and_two_runs_tell_nothing() -> None:
    scores = np.random.default_rng(2).normal(size=(3, 5))
    better, worse = (aggregates.together(scores + by, scores) for by in (9, -9))
    assert (better.difference.verdict, better.improvement.verdict) == ("holds", "holds")
    assert worse.difference.verdict == worse.improvement.verdict == "fails"
    assert better.improvement.value == 1.0 and better.difference.p < 0.001
    few = aggregates.together(scores[:1, :2] + 9, scores[:1, :2])
    assert few.difference.verdict == "undecided" and few.difference.low > 0


@cache
def requests() -> tuple[Request, ...]:
    return tuple(expand(asked.sweep(), ["scale=nano"]))


def make(returns: Returns, root: Path = Path()) -> Exhibit:
    outcomes = {request.run_id: returns(request) for request in requests()}

    def outcome(request: Any) -> Outcome | None:
        known = outcomes[request.run_id]
        return Outcome(None) if isinstance(known, float) else known

    found = recorded_in_memory("reinforcement", list(requests()), outcome)  # type: ignore[arg-type]
    for run_id, run in found.items():
        known = outcomes[run_id]
        if isinstance(known, float):
            run.data.metrics |= {"validation/return": known, "validation/length": 100.0}
    frame = table_of(requests(), found)
    frame["root"] = str(root)
    return reinforcement.build(frame, requests(), requests()[0].config.scale)


def earned(request: Any, better: str = "spam") -> float:
    """Returns as large as some of these environments have: exp() of them is no number."""
    own = {"cartpole": 300.0, "hopper": 1500.0, "pendulum": 900.0}[request.labels["panel"]]
    return own * (1.0 + 0.3 * (request.labels["value"] == better) + 0.02 * request.seed)


def test_the_claim_is_answered_from_the_runs() -> None:
    held = make(earned)
    assert [str(answer.verdict) for answer in held.answers] == ["holds"]
    assert claim_p(held.answers[0]) < 0.05
    assert str(make(lambda r: earned(r, "adam")).answers[0].verdict) == "fails"
    assert str(make(lambda r: earned(r, "neither")).answers[0].verdict) == "undecided"
    text = markdown(held, [])
    assert "probability that SPAM improves on Adam | 1.000" in text
    assert "no experiment, table or setting" in text
    for request in requests():
        assert f"`{request.run_id}`" in text
    row = held.table.set_index(["panel", "value"]).loc[("hopper", "adam")]
    expected = [earned(r) for r in requests() if r.labels == {"panel": "hopper", "value": "adam"}]
    assert row["return_mean"] == pytest.approx(np.mean(expected))
    assert row["score_mean"] == pytest.approx(np.mean(expected) / 2382.86)


def test_controls_tell_larger_steps_from_spam() -> None:
    """Adam at twice the rate gains what SPAM does, and a restarted correction nothing."""

    def larger_steps(request: Any) -> float:
        gains = request.labels["value"] in ("spam", "adam_twice")
        return earned(request, request.labels["value"] if gains else "none")

    exhibit = make(larger_steps)
    assert str(exhibit.answers[0].verdict) == "holds", "controls are no part of the test"
    text = markdown(exhibit, [])
    row = text.split("Is it SPAM, or larger steps?")[1].split("| Hopper |")[1].split("\n")[0]
    twice, restarted, gain, left, without = row.strip(" |").split(" | ")
    assert twice.startswith("2010.0") and restarted.startswith("1560.0")
    assert gain.startswith("+450.0") and gain.endswith("holds")
    assert left.startswith("+0.0") and without.startswith("+0.0")
    rates = {(r.labels["panel"], r.labels["value"]): r.config.optimizer.lr for r in requests()}
    for panel in ("cartpole", "hopper", "pendulum"):
        assert rates[panel, "adam_twice"] == 2 * rates[panel, "adam"] == 2 * rates[panel, "spam"]
    corrections = {
        r.labels["value"]: r.config.optimizer.bias_correction  # type: ignore[attr-defined]
        for r in requests()
        if r.labels["value"].startswith("spam")  # type: ignore[union-attr]
    }
    assert corrections == {"spam": "running", "spam_restarted": "restarted"}


def test_a_run_that_diverged_or_is_missing_is_never_a_number() -> None:
    def diverging(request: Any) -> float | Outcome | None:
        if request.seed == 3 and request.labels == {"panel": "hopper", "value": "spam"}:
            return Outcome(None, state="diverged", diverged=True)
        return earned(request)

    spoiled = make(diverging)
    assert str(spoiled.answers[0].verdict) == "undecided"
    assert "SPAM (Hopper): 1 of 5 diverged" in markdown(spoiled, [])
    table = spoiled.table.set_index(["panel", "value"])
    assert math.isnan(table.loc[("hopper", "spam"), "return_mean"])
    assert not math.isnan(table.loc[("hopper", "adam"), "return_mean"])
    gap = make(lambda r: None if r.seed == 4 else earned(r))
    assert str(gap.answers[0].verdict) == "undecided"
    assert "incomplete: 1 of 5 missing" in markdown(gap, [])
    empty = make(lambda r: None)
    assert str(empty.answers[0].verdict) == "undecided"
    assert "no results yet" in [text.get_text() for text in empty.figure.findobj(Text)]


def test_curves_are_over_transitions(tmp_path: Path) -> None:
    for request in requests():
        writer = MetricWriter(RunDirectory(tmp_path, request.run_id).metrics_path)
        for step in (request.config.evaluation.every, request.config.schedule.steps):
            writer.add(step, {"validation/return": earned(request) * step / 1000})
        writer.flush()
    exhibit = make(earned, tmp_path)
    lines = {
        tuple(line.get_xdata())
        for panel in exhibit.figure.subfigs[0].axes
        for line in panel.get_lines()
    }
    # 96 of 16 updates a rollout of 512; 1067 of 320 a rollout of 2048, begun ones included
    assert lines == {(6 * 512, 48 * 512), (4 * 2048, 20 * 2048)}
