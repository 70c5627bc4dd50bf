"""The exhibit on few bits: its cells, what each claim is answered by, and what has no number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis import paper_quantization as claims
from analysis.catalogue import load_build
from analysis.exhibit import Exhibit, markdown
from analysis.frames import table_of
from analysis.stats import Cell, Verdict
from spam_lab.config.compose import compose_run
from spam_lab.config.identity import run_id
from spam_lab.orchestrate.expand import Request, expand, load_sweep
from tests.analysis_store import Outcome, recorded_in_memory

LOSS = {"adam": 5.3, "spam": 5.1, "stable_spam": 5.0}
COST = {"full": 0.0, "a8w8": 0.01, "a4w4": 0.1}


@cache
def asked() -> tuple[Request, ...]:
    return tuple(expand(load_sweep("quantization"), ["scale=nano"]))


def parts(request: Any) -> tuple[str, str, str]:
    method, bits = str(request.labels["value"]).split("/")
    return str(request.labels["panel"]), method, bits


def as_claimed(request: Any) -> Outcome:
    """Each better than the one before; a high rate costs most in 4 bits, and Stable-SPAM least."""
    panel, method, bits = parts(request)
    loss = LOSS[method] + COST[bits] + 0.03 * request.seed
    if panel == "x4":
        loss += (0.2 + 2 * COST[bits]) * (0.3 if method == "stable_spam" else 1.0)
    return Outcome(loss + (int(request.run_id[:4], 16) % 7 - 3) * 2e-4)


def make(outcomes: Callable[[Any], Outcome | None] = as_claimed) -> Exhibit:
    requests: Any = asked()
    frame = table_of(requests, recorded_in_memory("quantization", requests, outcomes))
    return load_build("quantization")(frame, requests, requests[0].config.scale)


def verdicts(exhibit: Exhibit) -> dict[str, str]:
    return {a.claim.key.partition(".")[2]: str(a.verdict) for a in exhibit.answers}


def test_claims_hold_fail_and_stay_open_as_the_runs_say() -> None:
    assert set(verdicts(make()).values()) == {"holds"}
    assert set(verdicts(make(lambda request: None)).values()) == {"undecided"}

    def opposite(request: Any) -> Outcome:
        loss = as_claimed(request).loss
        assert loss is not None
        return Outcome(11 - loss + 0.06 * request.seed)

    assert set(verdicts(make(opposite)).values()) == {"fails"}


def test_one_claim_follows_its_own_cells_alone() -> None:
    def eight_bits_swapped(request: Any) -> Outcome:
        _, method, bits = parts(request)
        outcome = as_claimed(request)
        worse = 0.5 if (method, bits) == ("spam", "a8w8") else 0.0
        return Outcome((outcome.loss or 0.0) + worse)

    found = verdicts(make(eight_bits_swapped))
    assert found.pop("spam_in_eight_bits") == "fails"
    assert set(found.values()) == {"holds"}


def test_what_a_high_rate_adds_is_tested_within_seeds() -> None:
    exhibit = make()
    answer = next(a for a in exhibit.answers if a.claim is claims.RATE_MATTERS_MORE)
    assert answer.comparisons == () and len(answer.tested) == 3
    loss = {(parts(r), r.seed): as_claimed(r).loss for r in asked()}

    def rises(bits: str) -> np.ndarray:
        usual, high = (
            [loss[(panel, "adam", bits), seed] for seed in (0, 1, 2)]
            for panel in ("llama_60m", "x4")
        )
        return np.subtract(high, usual)

    difference = answer.tested[0].difference
    assert difference is not None
    assert difference.mean == pytest.approx((rises("full") - rises("a4w4")).mean())
    expected = scipy_stats.ttest_rel(rises("full"), rises("a4w4")).pvalue
    assert difference.p == pytest.approx(expected)


def test_a_rise_without_a_loss_is_none() -> None:
    usual = Cell("u", "", {0: 5.0, 1: 5.1}, frozenset({2}), {3: "failed"})
    high = Cell("h", "", {0: 5.5, 2: 9.0, 3: 5.0}, frozenset({1}), {})
    rise = claims.added(high, usual)
    assert rise.losses == {0: pytest.approx(0.5)} and rise.diverged == {1}
    assert set(rise.incomplete) == {2, 3} and rise.seeds == 4
    assert claims.added(Cell("h"), Cell("u")).seeds == 0
    half = claims.added(Cell("h", "", {0: 5.0}), Cell("u"))
    assert half.incomplete == {0: "missing"}


def test_a_method_that_diverges_only_in_four_bits_is_worse_and_has_no_number() -> None:
    def diverging(request: Any) -> Outcome:
        panel, method, bits = parts(request)
        if method == "adam" and bits == "a4w4" and panel == "x4":
            return Outcome(None, state="diverged", diverged=True)
        return as_claimed(request)

    exhibit = make(diverging)
    assert verdicts(exhibit)["rate_matters_more"] == Verdict.HOLDS
    table: Any = exhibit.table.set_index(["panel", "value"])
    row = table.loc[("x4", "adam/a4w4")]
    assert math.isnan(row["perplexity_mean"]) and math.isnan(row["ratio_to_full_precision"])
    assert "3 of 3 diverged" in markdown(exhibit, [])


def test_numbers_stand_beside_their_runs_and_no_printed_value() -> None:
    exhibit = make()
    text = markdown(exhibit, [])
    for request in asked():
        assert f"`{request.run_id}`" in text
    table: Any = exhibit.table.set_index(["panel", "value"])
    row = table.loc[("llama_130m", "spam/a4w4")]
    assert row["as_run"].endswith("float32 A4W4")
    losses = {
        value: np.array([as_claimed(r).loss for r in asked() if r.labels == labels])
        for value in ("spam/a4w4", "spam/full", "adam/a4w4")
        if (labels := {"panel": "llama_130m", "value": value})
    }
    own = losses["spam/a4w4"] - losses["spam/full"]
    assert row["ratio_to_full_precision"] == pytest.approx(np.exp(own.mean()))
    adam = losses["spam/a4w4"] - losses["adam/a4w4"]
    assert row["ratio_to_adam"] == pytest.approx(np.exp(adam.mean()))
    assert "prints no number" in text and "precision `a4w4, a8w8, fp32`" in text


def test_full_precision_is_the_plain_run_and_the_number_format_is_free() -> None:
    plain = run_id(compose_run(["model=llama_130m", "optimizer=spam", "seed=2"]))
    full = [r.run_id for r in asked() if parts(r) == ("llama_130m", "spam", "full")]
    assert full[2] == plain
    one_seed = replace(load_sweep("quantization"), seeds=(0,))
    paper = expand(one_seed, ["scale=paper", "data=c4", "precision=bf16"])
    assert {r.config.precision.weights for r in paper} == {"bfloat16"}
    assert {r.config.precision.weight_bits for r in paper} == {None, 8, 4}
    assert len({r.run_id for r in paper}) == len(paper) == 24
