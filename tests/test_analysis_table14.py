"""Table 14: times beside Adam and the paper, the verdict on the overhead, and what is missing."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import paper, table14
from analysis.exhibit import Exhibit, markdown
from analysis.frames import results
from spam_lab.orchestrate.expand import expand, load_sweep
from spam_lab.train.timing import WINDOW
from sweeps.table14 import METHODS, STEPS
from tests.analysis_store import Outcome, recorded_in_memory

RELATIVE = {"adam": 1.0, "adam_mini": 1.2, "adafactor": 1.1, "galore": 1.9}
OPTIMIZER = 0.3
"""The optimizer's share of every run here."""

Make = Callable[..., Exhibit]


def jitter(request: Any) -> float:
    """A part of its own for every run, at most 1 %; the same whatever the run is called."""
    name = f"{request.labels['panel']} {request.labels['value']} {request.seed}"
    return 1 + (zlib.crc32(name.encode()) % 21 - 10) * 1e-3


def costing(spam: float) -> Callable[[Any], Outcome]:
    def outcome(request: Any) -> Outcome:
        base = 0.040 if request.labels["panel"] == "llama_60m" else 0.080
        seconds = base * RELATIVE.get(request.labels["value"], spam) * jitter(request)
        return Outcome(5.0, step_seconds=seconds, optimizer_seconds=OPTIMIZER * seconds)

    return outcome


@pytest.fixture(scope="module")
def requests() -> Any:
    return expand(load_sweep("table14"), ["scale=nano"])


@pytest.fixture(scope="module")
def make(requests: Any) -> Make:
    """The exhibit of runs with the given outcomes, for the sweep's real requests."""

    def build(outcomes: Callable[[Any], Outcome | None]) -> Exhibit:
        found = recorded_in_memory("table14", requests, outcomes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("analysis.frames._records", lambda *_: found)
            frame = results(requests, "nano", "", "table14")
        return table14.build(frame, requests, requests[0].config.scale)

    return build


def row_of(exhibit: Exhibit, panel: str, value: str) -> pd.Series:
    table = exhibit.table
    return table[(table["panel"] == panel) & (table["value"] == value)].iloc[0]


def test_the_sweep_is_the_papers_table(requests: Any) -> None:
    assert tuple(METHODS) == paper.TABLE14_METHODS
    assert len(requests) == 2 * 6 * 3
    assert {request.config.schedule.steps for request in requests} == {STEPS}
    ranks = [r.config.optimizer.rank for r in requests if r.labels["value"] == "galore"]
    assert set(ranks) == {16}, "128 at both sizes, width ÷ 8"
    assert table14.WINDOW == WINDOW < STEPS


def test_times_shares_and_multiples(make: Make, requests: Any) -> None:
    """Against the same statistics written out with NumPy."""
    outcomes = costing(1.04)
    exhibit = make(outcomes)
    row = row_of(exhibit, "llama_130m", "galore")
    of_cell = {
        value: np.array(
            [
                1e3 * outcomes(r).step_seconds
                for r in requests
                if (r.labels["panel"], r.labels["value"]) == ("llama_130m", value)
            ]
        )
        for value in ("galore", "adam")
    }
    times = of_cell["galore"]
    quantile = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert row["milliseconds_mean"] == pytest.approx(times.mean())
    assert row["milliseconds_half_width_95"] == pytest.approx(quantile * times.std(ddof=1))
    assert row["optimizer_percent_mean"] == pytest.approx(100 * OPTIMIZER)
    logs = np.log(times / of_cell["adam"])
    half = quantile * logs.std(ddof=1)
    assert row["times_adam"] == pytest.approx(np.exp(logs.mean()))
    assert row["times_adam_low_95"] == pytest.approx(np.exp(logs.mean() - half))
    assert row["times_adam_high_95"] == pytest.approx(np.exp(logs.mean() + half))
    assert row["paper_seconds"] == 0.6702
    assert row["paper_times_adam"] == pytest.approx(0.6702 / 0.6397)
    assert math.isnan(row_of(exhibit, "llama_60m", "adam")["times_adam"])


@pytest.mark.parametrize(
    ("spam", "verdict"), [(1.04, "holds"), (1.25, "fails"), (1.10, "undecided")]
)
def test_the_overheads_verdict(spam: float, verdict: str, make: Make) -> None:
    exhibit = make(costing(spam))
    (answer,) = exhibit.answers
    assert str(answer.verdict) == verdict
    assert len(answer.parts) == 4
    assert "x Adam [" in answer.parts[0].detail


def test_the_page_says_what_the_times_are(make: Make) -> None:
    text = markdown(make(costing(1.04)), ["python launch.py sweep=table14"])
    for needed in (
        "| LLaMA-60M | Adam | ",
        "0.3666 | 1.000 |",
        "| SPAM d=0.25 | ",
        "0.6658 | 1.041 |",
        "| SPAM d=1 (LLaMA-60M) | resets every 50 | 2 |",
        "| GaLore r=128 (LLaMA-60M) | bases every 20 | 5 |",
        "cluster.workers=1",
        "spam-lab bench optimizers",
        "Holm over 4 comparisons",
    ):
        assert needed in text


def test_ours_and_the_papers_have_axes_of_their_own(make: Make) -> None:
    ours, published, *_ = make(costing(1.04)).figure.axes
    assert ours.get_ylabel() == "milliseconds an iteration"
    assert published.get_ylabel() == "seconds an iteration"
    assert ours.get_ylim()[0] > 10 > published.get_ylim()[1]


def test_runs_without_a_time_decide_nothing(make: Make) -> None:
    """Recorded before the loop kept time, or not run at all: said, never counted."""

    def gaps(request: Any) -> Outcome | None:
        if request.labels["value"] == "galore":
            return None
        outcome = costing(1.04)(request)
        if request.labels["value"] == "spam" and request.seed == 1:
            return replace(outcome, step_seconds=math.nan, optimizer_seconds=math.nan)
        return outcome

    exhibit = make(gaps)
    assert str(exhibit.answers[0].verdict) == "undecided"
    text = markdown(exhibit, [])
    assert "incomplete: 1 of 3 done without a time" in text
    assert "incomplete: 3 of 3 missing" in text
    row = row_of(exhibit, "llama_60m", "spam")
    assert (row["n"], row["incomplete"]) == (2, 1)
