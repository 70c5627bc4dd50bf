"""Tables 13 and 15 from records with chosen results: verdicts follow the errors, gaps are shown,
and the counted memory is that of arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from analysis import table13, table15
from analysis.exhibit import Exhibit, drawn, markdown
from analysis.finetuning_memory import Bytes, at_paper_size
from analysis.frames import table_of
from analysis.paper_finetuning import AVERAGE, TABLE15, TABLE15_TASKS
from analysis.stats import Verdict
from spam_lab.orchestrate.expand import Request, expand, load_sweep

Outcome = Callable[[Request], dict[str, float] | None]
"""Metrics of a request's run; None: it diverged."""


def built(
    module: Any, name: str, outcome: Outcome, missing: int = 0, overrides: tuple[str, ...] = ()
) -> Exhibit:
    requests = expand(load_sweep(name), overrides)
    records = {}
    for request in requests[missing:]:
        values = outcome(request)
        state = "diverged" if values is None else "done"
        metrics = {"diverged": 1.0} if values is None else {"diverged": 0.0, **values}
        records[request.run_id] = SimpleNamespace(
            data=SimpleNamespace(tags={"spam_lab.state": state}, metrics=metrics),
            info=SimpleNamespace(run_id=f"mlflow{request.run_id}"),
        )
    frame = table_of(requests, records)  # type: ignore[arg-type]
    frame["root"] = "no folder of runs"  # what is kept cannot be, and is counted again
    exhibit: Exhibit = module.build(frame, requests, requests[0].config.scale)
    assert drawn(exhibit.figure, "png") and markdown(exhibit, ["python"])
    return exhibit


def errors(error: float, request: Request) -> dict[str, float]:
    """An error with a little of the seed in it, and what stands beside it."""
    error += 0.001 * request.seed**2
    own = {f"validation/{task}/accuracy": 1 - error for task in TABLE15_TASKS}
    beside = {"validation/loss": 2.0, "validation/accuracy_normalised": 0.5}
    return {"validation/error": error, **beside, "spam/clipped_total": 7.0, **own}


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [(0.05, Verdict.HOLDS), (-0.05, Verdict.FAILS), (0.0, Verdict.UNDECIDED)],
)
def test_clipping_is_judged_by_its_errors(gap: float, verdict: Verdict) -> None:
    def outcome(request: Request) -> dict[str, float]:
        nullifies = str(request.labels["value"]).startswith("nullify")
        return errors(0.4 + gap * nullifies * (1 + 0.01 * request.seed), request)

    exhibit = built(table13, "table13", outcome)
    assert [answer.verdict for answer in exhibit.answers] == [verdict]
    first = exhibit.table.iloc[0]
    assert first["accuracy_mean"] == pytest.approx(100 * (1 - 0.4 - 0.005 / 3))
    assert first["paper_accuracy"] == 59.4 and len(first["run_ids"].split()) == 3
    text = markdown(exhibit, [])
    assert all(run in text for row in exhibit.table["run_ids"] for run in row.split())
    # 30 steps at nano, intervals 40 times as short: Table 8's 1000 and 250 steps are 25 and 6.
    assert "ΔT 25, N 8, θ 5000: 1 reset " in text and "ΔT 6, N 1, θ 5000: 5 resets" in text
    assert "Ended before the first reset" not in text


def test_runs_that_end_before_a_reset_are_named() -> None:
    short = ("schedule.steps=20",)
    text = markdown(built(table13, "table13", lambda r: errors(0.4, r), overrides=short), [])
    ended = text.split("Ended before the first reset: ")[1].split("What is seen")[0]
    assert "100 %" in ended and "0.25 %" not in ended


def test_a_run_that_diverged_or_is_missing_is_no_number() -> None:
    def outcome(request: Request) -> dict[str, float] | None:
        lost = request.labels["value"] == "nullify_100" and request.seed == 0
        return None if lost else errors(0.3, request)

    exhibit = built(table13, "table13", outcome, missing=1)
    (answer,) = exhibit.answers
    assert answer.verdict is Verdict.UNDECIDED
    reasons = " ".join(part.detail for part in answer.parts)
    assert "1 of 3 runs" in reasons
    rows = exhibit.table.set_index(["panel", "value"])
    assert rows.loc[("winogrande", "nullify_100"), "diverged"] == 1
    assert rows.loc[("winogrande", "clip_100"), "incomplete"] == 1
    none = built(table13, "table13", outcome, missing=24)
    assert none.table["accuracy_mean"].isna().all() and "no results" not in markdown(none, [])


def test_sparse_spam_is_held_against_low_rank_methods_and_adam(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = {"galore": 100, "spam_sparse": 103}

    def account(method: str, known: object) -> Bytes:
        return Bytes(900, 900, sizes.get(method, 900))

    monkeypatch.setattr(table15, "at_paper_size", account)
    means = {"adam": 0.40, "lora": 0.45, "galore": 0.46, "spam_sparse": 0.42, "spam": 0.35}

    def outcome(request: Request) -> dict[str, float]:
        method = str(request.labels["value"])
        return errors(means[method] * (1 + 0.001 * request.seed), request)

    exhibit = built(table15, "table15", outcome)
    efficient, full, memory = exhibit.answers
    assert efficient.verdict is Verdict.HOLDS
    assert full.verdict is Verdict.FAILS, "sparse SPAM has more errors than Adam"
    assert [part.verdict for part in full.parts] == [Verdict.FAILS, Verdict.HOLDS]
    assert memory.verdict is Verdict.HOLDS and "ratio 1.003" in memory.parts[0].detail
    sizes["spam_sparse"] = 200
    fails = built(table15, "table15", outcome).answers[2]
    assert fails.verdict is Verdict.FAILS
    row = exhibit.table.set_index("value").loc["spam"]
    assert row["paper_boolq_accuracy"] == 87.1
    assert row["boolq_accuracy_mean"] == pytest.approx(row["accuracy_mean"])


def test_the_printed_averages_are_those_of_the_printed_tasks() -> None:
    for method, values in TABLE15.items():
        mean = sum(float(values[task]) for task in TABLE15_TASKS) / len(TABLE15_TASKS)
        printed = float(values[AVERAGE])
        assert abs(mean - printed) < 0.1, (method, mean)


def test_counted_bytes_are_those_of_arithmetic() -> None:
    """LLaMA2-7B has 6,738,415,616 weights; adapters of rank 8 have 19,988,480."""
    full, lora = at_paper_size("adam", {}), at_paper_size("lora", {})
    assert full.weights == full.gradients == 2 * 6_738_415_616
    assert full.state == pytest.approx(2 * full.weights, rel=1e-6)
    adapters = 32 * 8 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert adapters == 19_988_480
    assert lora.weights - full.weights == lora.gradients == 2 * adapters
    assert lora.state == pytest.approx(4 * adapters, rel=1e-3)
