"""Figure 5: the simulated moments against a closed form, recovery, claims on known results."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from analysis import figure5
from analysis.catalogue import load_build
from analysis.exhibit import Exhibit, markdown
from analysis.frames import results
from spam_lab.config.compose import compose_run
from spam_lab.optim import spike_trace
from tests.analysis_store import (
    NANO,
    FakeRequest,
    Outcome,
    Outcomes,
    recorded_in_memory,
    requests_of,
)

pytestmark = pytest.mark.usefixtures("own_folder")


def build(outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch) -> Exhibit:
    requests: Any = requests_of(importlib.import_module("sweeps.figure5").sweep())
    found = recorded_in_memory("figure5", requests, outcomes)
    monkeypatch.setattr("analysis.frames._records", lambda *_: found)
    frame = results(requests, "nano", "", "figure5")
    frame["root"] = "."
    return load_build("figure5")(frame, requests, NANO)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_the_trace_is_the_weighted_sum_of_all_gradients(betas: tuple[float, float]) -> None:
    """m_t = (1 - beta1) sum of beta1^(t-i) g_i, and v_t so of the squares: one matrix each."""
    grads = np.array(spike_trace.gradients(300, seed=3))
    assert grads[29] == 10 and np.count_nonzero(grads > 5) == 1
    assert grads[100:].mean() == pytest.approx(0.1, abs=0.07)
    assert grads[100:].var() == pytest.approx(0.1, rel=0.3)
    ages = np.subtract.outer(np.arange(300), np.arange(300)).astype(float)
    found = spike_trace.trace(list(grads), betas)
    for ours, beta, values in (
        (found.exp_avg, betas[0], grads),
        (found.exp_avg_sq, betas[1], grads**2),
    ):
        weights = np.where(ages >= 0, (1 - beta) * beta ** np.maximum(ages, 0), 0)
        assert np.allclose(ours, weights @ values, rtol=1e-12, atol=0)


def test_recovery_is_the_first_power_of_beta_below_the_share() -> None:
    simulated = figure5.simulate({})
    powers = np.arange(5000)
    assert simulated.first == np.argmax(0.9**powers <= 0.01) == 44
    assert simulated.second == np.argmax(0.999**powers <= 0.01) == 4603
    clean, spiked = simulated.clean.exp_avg, simulated.spiked.exp_avg
    assert spike_trace.recovery(spiked[:60], clean[:60], 0.01) is None
    assert spike_trace.recovery(spiked, clean, 1.0) == 0


def test_the_claims_on_results_as_the_paper_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def better(request: FakeRequest) -> Outcome:
        gain = 0.0 if request.labels["value"] is None else 0.1
        own = (int(request.run_id[:4], 16) % 7 - 3) * 2e-4
        return Outcome(5.3 - gain + 0.02 * request.seed + own)

    exhibit = build(better, monkeypatch)
    assert [str(answer.verdict) for answer in exhibit.answers] == ["holds", "holds"]
    text = markdown(exhibit, [])
    for needed in ("| m | 0.9 |", "44 steps", "4,603 steps", "torch's Adam in float64"):
        assert needed in text
    assert list(exhibit.table["value"]) == ["500", "1000", "2500", "5000", "10000", "None"]


def test_zeroing_that_hurts_once_fails_the_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    def worse_at_500(request: FakeRequest) -> Outcome:
        value = request.labels["value"]
        loss = 0.4 if value == 500 else 0.1 if value is None else 0.0
        return Outcome(5.3 + loss + 0.02 * request.seed + (request.run_id[0] > "8") * 1e-3)

    assert str(build(worse_at_500, monkeypatch).answers[0].verdict) == "fails"


def test_the_sweep_composes_to_an_adam_that_zeroes_and_never_resets() -> None:
    for cell in importlib.import_module("sweeps.figure5").sweep().cells:
        overrides = [
            f"{key}={'null' if value is None else value}" for key, value in cell.overrides.items()
        ]
        optimizer: Any = compose_run(overrides).optimizer
        assert optimizer.delta_t is None and optimizer.warmup_steps == 0
        assert optimizer.spike_rule == ("nullify" if cell.labels["value"] else "none")
