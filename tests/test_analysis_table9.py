"""Table 9: the quarters read from the curves, the paper's values beside them, and the verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis import table9
from analysis.accuracies import evaluation_at
from analysis.exhibit import Exhibit, drawn, markdown
from analysis.frames import table_of
from analysis.ledger import claim_p
from analysis.paper_table9 import ACCURACY
from analysis.stats import Cell
from spam_lab.orchestrate.expand import expand, load_sweep
from spam_lab.record.metrics import MetricWriter
from spam_lab.record.store import RunDirectory

End = Callable[[Any], float | str]
"""Request -> its error at the end, or the state of a run without one."""

Make = Callable[[End], Exhibit]


@pytest.fixture(scope="module")
def requests() -> Any:
    return expand(load_sweep("table9"), ["scale=nano"])


@pytest.fixture
def make(requests: Any, tmp_path: Path) -> Make:
    """The exhibit of runs with these ends; every run has real metric logs."""

    def build(end: End) -> Exhibit:
        records = {}
        for request in requests:
            error = end(request)
            state = error if isinstance(error, str) else "done"
            values = {} if isinstance(error, str) else log(tmp_path, request, error)
            records[request.run_id] = SimpleNamespace(
                data=SimpleNamespace(tags={"spam_lab.state": state}, metrics=values),
                info=SimpleNamespace(run_id=f"mlflow{request.run_id}"),
            )
        frame = table_of(requests, records)  # type: ignore[arg-type]
        frame["root"] = str(tmp_path)
        return table9.build(frame, requests, requests[0].config.scale)

    return build


def log(root: Path, request: Any, end: float) -> dict[str, float]:
    """Write a curve that falls to `end`; its last values."""
    directory = RunDirectory(root, request.run_id)
    directory.metrics_path.parent.mkdir(parents=True, exist_ok=True)
    directory.metrics_path.unlink(missing_ok=True)
    writer = MetricWriter(directory.metrics_path)
    last = request.config.schedule.steps
    for step in range(52, last + 1, 52):
        error = end + 0.4 * (1 - step / last)
        values = {
            "validation/loss": 3 * error,
            "validation/error": error,
            "validation/ema_error": error / 2,
        }
        writer.add(step, values)
    writer.flush()
    return values


def errors(better: float, wobble: float = 0.004) -> End:
    """AdamW at 10 %, SPAM lower by `better`; seeds differ, and SPAM's a little more."""

    def end(request: Any) -> float:
        spam = request.labels["value"] == "spam"
        return 0.1 + 0.02 * request.seed + (wobble * request.seed - better if spam else 0)

    return end


def test_the_sweep_asks_for_the_papers_setting(requests: Any) -> None:
    assert len(requests) == 12 and len({request.run_id for request in requests}) == 12
    pairs: dict[tuple[Any, int], list[Any]] = {}
    for request in requests:
        pairs.setdefault((request.labels["panel"], request.seed), []).append(request.config)
    for adamw, spam in pairs.values():
        assert (adamw.optimizer.name, spam.optimizer.name) == ("adam", "spam")
        assert adamw.task == spam.task and adamw.schedule == spam.schedule
        assert adamw.optimizer.lr == spam.optimizer.lr
        assert adamw.optimizer.weight_decay == spam.optimizer.weight_decay == 0.05
    paper = expand(load_sweep("table9"), ["scale=paper"])[3].config
    assert (paper.optimizer.delta_t, paper.optimizer.warmup_steps) == (25_000, 20)
    assert paper.optimizer.theta == 5000 and paper.schedule.steps == 120 * (1_281_167 // 4096)
    for request in requests:
        if request.labels["value"] == "spam":
            share = request.config.optimizer.delta_t / request.config.schedule.steps
            assert share == pytest.approx(25_000 / paper.schedule.steps, abs=0.001)


def test_quarters_are_read_from_the_curves(make: Make, requests: Any) -> None:
    exhibit = make(errors(0.03))
    table = exhibit.table
    quarters = [156, 312, 468, 624]
    assert table["step"].tolist() == quarters * 2 + [4 * step for step in quarters] * 2
    ours = table[(table["panel"] == "vision_vit") & (table["value"] == "spam")]
    for place, row in enumerate(ours.to_dict("records")):
        ends = np.array([0.1 + 0.024 * seed - 0.03 for seed in (0, 1, 2)])
        accuracies = 100 * (1 - ends - 0.4 * (1 - (place + 1) / 4))
        assert row["accuracy_mean"] == pytest.approx(accuracies.mean())
        interval = stats.t.interval(0.95, 2, accuracies.mean(), stats.sem(accuracies))
        assert row["accuracy_half_width_95"] == pytest.approx(interval[1] - accuracies.mean())
        assert row["paper_accuracy"] == ACCURACY["vision_vit", "spam"][place]
        assert len(row["run_ids"].split()) == 3
    text = markdown(exhibit, [])
    assert "| ConvNeXt-T | 25% | 156 |" in text and "| – | – | – |" in text, "no published value"
    assert "+0.15" in text and "+0.27" in text
    assert all(request.run_id in text for request in requests)
    assert drawn(exhibit.figure, "png").startswith(b"\x89PNG")


def test_nearest_evaluation() -> None:
    curves = {("a", "x"): {s: Cell("") for s in (100, 200, 400)}, ("b", "x"): {7: Cell("")}}
    assert [evaluation_at(curves, "a", f, 400) for f in (0.25, 0.5, 0.75, 1)] == [
        100,
        200,
        200,  # 300 lies between two: the earlier
        400,
    ]
    assert evaluation_at(curves, "c", 1, 400) == 0


@pytest.mark.parametrize(
    ("better", "wobble", "verdicts"),
    [
        (0.03, 0.001, ["holds", "holds"]),
        (-0.03, 0.001, ["fails", "fails"]),
        (-0.004, 0.001, ["undecided", "holds"]),  # worse by 0.3 to 0.5 points: on par
        (0.0, 0.02, ["undecided", "undecided"]),
    ],
)
def test_verdicts_follow_a_paired_test(
    better: float, wobble: float, verdicts: list[str], make: Make
) -> None:
    exhibit = make(errors(better, wobble))
    found = [str(answer.verdict) for answer in exhibit.answers]
    gaps = np.array([wobble * seed - better for seed in (0, 1, 2)])
    p = [min(1, 2 * stats.ttest_1samp(gaps - margin, 0).pvalue) for margin in (0, 0.01)]
    for answer, expected in zip(exhibit.answers, p, strict=True):
        assert [c.adjusted_p for c in answer.tested] == pytest.approx([expected] * 2)
        assert claim_p(answer) is not None
    if better == -0.004:
        verdicts = [
            "fails" if p[0] < 0.05 else "undecided",
            "holds" if p[1] < 0.05 else "undecided",
        ]
    assert found == verdicts
    shown = exhibit.answers[1].parts[0].detail
    assert f"{100 * gaps.mean():+.2f} [" in shown, "the difference itself, without the margin"


def test_what_diverged_or_is_missing_is_never_a_number(make: Make) -> None:
    whole = errors(0.03)

    def end(request: Any) -> float | str:
        if request.labels["value"] == "spam" and request.labels["panel"] == "vision_vit":
            return "diverged"
        if request.labels["value"] == "adamw" and request.seed == 2:
            return "running"
        return whole(request)

    exhibit = make(end)
    assert [str(answer.verdict) for answer in exhibit.answers] == ["undecided", "undecided"]
    table = exhibit.table
    lost = table[(table["panel"] == "vision_vit") & (table["value"] == "spam")]
    assert lost["accuracy_mean"].isna().all() and set(lost["diverged"]) == {3}
    waiting = table[(table["panel"] == "vision_convnext") & (table["value"] == "adamw")]
    assert set(waiting["incomplete"]) == {1} and set(waiting["n"]) == {2}
    assert "diverged" in markdown(exhibit, [])


def test_without_any_result_it_says_so(make: Make) -> None:
    exhibit = make(lambda request: "planned")
    assert exhibit.table["accuracy_mean"].isna().all()
    assert [str(answer.verdict) for answer in exhibit.answers] == ["undecided", "undecided"]
    assert drawn(exhibit.figure, "svg")
