"""Figure 7: the slope of SPAM's advantage over severity, its verdicts, and what is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis import figure7, severity
from analysis.exhibit import Exhibit, drawn, markdown
from analysis.frames import table_of
from analysis.stats import Cell, Verdict
from spam_lab.main import main
from spam_lab.orchestrate.expand import Request, expand
from spam_lab.record.metrics import MetricWriter
from spam_lab.record.store import RunDirectory
from sweeps.figure7 import SEVERITIES, sweep
from tests.analysis_store import Outcome, recorded_in_memory

Losses = Callable[[str, float, int], float]


@cache
def asked() -> tuple[Request, ...]:
    return tuple(expand(sweep(), ["scale=nano"]))


def as_claimed(optimizer: str, level: float, seed: int) -> float:
    """Anomalies cost Adam 2 a unit and SPAM 1; a seed adds the same to both, and a bit of noise."""
    noise = np.random.default_rng([seed, int(1e4 * level), optimizer == "spam"]).normal(0, 2e-3)
    return float(0.3 + (1 if optimizer == "spam" else 2) * level + 0.02 * seed + noise)


def exhibit(
    losses: Losses, root: Path = Path(), states: Callable[[Any], str] = lambda request: "done"
) -> Exhibit:
    def outcome(request: Any) -> Outcome | None:
        state = states(request)
        if state == "missing":
            return None
        loss = losses(request.labels["panel"], request.labels["value"], request.seed)
        return Outcome(loss if state == "done" else None, state, diverged=state == "diverged")

    requests: Any = asked()
    records = recorded_in_memory("figure7", requests, outcome)
    for record in records.values():
        record.data.metrics["validation/mae"] = 0.4
    frame = table_of(requests, records)
    frame["root"] = str(root)
    return figure7.build(frame, requests, requests[0].config.scale)


def test_keys_of_the_task_can_be_set_for_the_whole_sweep() -> None:
    once = replace(sweep(), seeds=(0,))
    named = expand(once, ["scale=nano"])
    assert len({r.run_id for r in asked()}) == len(asked()) == 2 * len(SEVERITIES) * 10
    real = [
        expand(once, ["task.series=weather", f"task.path={path}"])
        for path in ("a/weather.csv", "b.csv")
    ]
    assert [r.run_id for r in real[0]] == [r.run_id for r in real[1]]
    assert not {r.run_id for r in real[0]} & {r.run_id for r in named}


def test_the_command_line_sets_keys_of_the_sweeps_own_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused for what it asks, the missing file, and not because pre-training has no such key."""
    missing = f"task.path={tmp_path}/missing.csv"
    runs = f"paths.runs={tmp_path}/runs"
    assert main(["sweep=figure7", "task.series=weather", missing, runs]) == 1
    assert "missing.csv" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/config.json"))


def test_the_two_optimizers_are_paired() -> None:
    by_point: dict[tuple[Any, int], list[Request]] = {}
    for request in asked():
        by_point.setdefault((request.labels["value"], request.seed), []).append(request)
    for (level, _), pair in by_point.items():
        adam, spam = (request.config for request in pair)
        assert (adam.optimizer.name, spam.optimizer.name) == ("adam", "spam")
        assert (adam.task, adam.schedule, adam.seed, adam.data_seed) == (
            (spam.task, spam.schedule, spam.seed, spam.data_seed)
        )
        task: Any = adam.task
        assert task.severity == level and adam.optimizer.lr == spam.optimizer.lr


def test_the_slope_is_that_of_a_regression_within_each_seed() -> None:
    cells = {
        level: Cell("", "", {seed: as_claimed("adam", level, seed) for seed in range(10)})
        for level in SEVERITIES
    }
    found = severity.slope("adam", cells)
    for seed in range(10):
        line = stats.linregress(SEVERITIES, [cells[level].losses[seed] for level in SEVERITIES])
        assert found.losses[seed] == pytest.approx(line.slope, rel=1e-9)


def test_the_interval_is_a_t_test_on_differences_of_slopes() -> None:
    answer = exhibit(as_claimed).answers[0]
    slopes = [
        np.polyfit(
            SEVERITIES,
            [as_claimed("spam", s, seed) - as_claimed("adam", s, seed) for s in SEVERITIES],
            1,
        )[0]
        for seed in range(10)
    ]
    expected = stats.ttest_1samp(slopes, 0).confidence_interval()
    difference = answer.tested[0].difference
    assert difference is not None and difference.n == 10
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))


def against(optimizer: str, level: float, seed: int) -> float:
    return as_claimed("adam" if optimizer == "spam" else "spam", level, seed)


def constant(optimizer: str, level: float, seed: int) -> float:
    """SPAM is better by as much at every severity."""
    return as_claimed("adam", level, seed) - 0.05 * (optimizer == "spam") + 1e-3 * (seed % 3)


@pytest.mark.parametrize(
    ("losses", "grows", "ahead"),
    [
        (as_claimed, Verdict.HOLDS, Verdict.HOLDS),
        (against, Verdict.FAILS, Verdict.FAILS),
        (constant, Verdict.UNDECIDED, Verdict.HOLDS),
    ],
)
def test_verdicts(losses: Losses, grows: Verdict, ahead: Verdict) -> None:
    assert [answer.verdict for answer in exhibit(losses).answers] == [grows, ahead]


@pytest.mark.parametrize("state", ["missing", "running", "diverged"])
def test_a_gap_decides_nothing_and_is_shown(state: str) -> None:
    def states(request: Any) -> str:
        labels = request.labels
        gone = (labels["panel"], labels["value"], request.seed) == ("spam", 0.1, 3)
        return state if gone else "done"

    made = exhibit(as_claimed, states=states)
    assert [answer.verdict for answer in made.answers] == [Verdict.UNDECIDED] * 2
    assert state in markdown(made, [])
    row = made.table.set_index(["optimizer", "severity"]).loc[("spam", 0.1)]
    assert row["n"] == 9 and (np.isnan(row["loss_mean"]) == (state == "diverged"))
    drawn(made.figure, "png")


def test_every_number_has_its_runs_and_the_curves_are_drawn(tmp_path: Path) -> None:
    for request in asked():
        writer = MetricWriter(RunDirectory(tmp_path, request.run_id).metrics_path)
        for step in (100, 473):
            loss = as_claimed(str(request.labels["panel"]), 0.1, request.seed) + 1 / step
            writer.add(step, {"validation/loss": loss})
        writer.flush()
    made = exhibit(as_claimed, tmp_path)
    assert (made.table["run_ids"].str.split().str.len() == 10).all()
    page = markdown(made, [])
    assert all(request.run_id in page for request in asked())
    curves = made.figure.subfigs[0].axes
    assert [len(axes.lines) for axes in curves] == [2] * len(SEVERITIES)
    assert list(curves[0].lines[0].get_xdata()) == [100, 473]
    assert drawn(made.figure, "svg") == drawn(exhibit(as_claimed, tmp_path).figure, "svg")
