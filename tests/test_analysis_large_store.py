"""Reading a sweep out of a large record costs what the sweep costs: its runs alone are read,
without their histories, by as many statements however many other runs there are."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event

from analysis.frames import results
from spam_lab.orchestrate.grid import Cell, Sweep
from spam_lab.record.mlflow_store import open_store
from tests.analysis_store import FakeRequest, empty_store, requests_of
from tests.large_store import CURVES, LAST, POINTS, LargeRun, fill, runs_of

SPAM = {"model": "llama_60m", "optimizer": "spam"}
SWEEP = Sweep(
    "demo",
    "Which theta?",
    tuple(
        Cell({"panel": "theta", "value": value}, {**SPAM, "optimizer.theta": value})
        for value in (500, 1000, 5000)
    ),
    (0, 1, 2),
)
FEW, MANY = 40, 200


def requests() -> list[FakeRequest]:
    return requests_of(SWEEP)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return empty_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def stores(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Addresses of records by their number of runs; the sweep's are among them."""
    folder = tmp_path_factory.mktemp("large")
    asked: Any = [("demo", request) for request in requests()]
    found = {}
    for count in (FEW, MANY):
        path = shutil.copy(empty, folder / f"{count}.db")
        found[count] = f"sqlite:///{path}"
        fill(found[count], "nano", runs_of(asked, count), folder)
    return found


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """What is asked of any database meanwhile: statements, and rows by MLflow's classes."""
    from mlflow.store.tracking.dbmodels import models

    counts: Counter[str] = Counter()
    kinds = (models.SqlRun, models.SqlMetric, models.SqlLatestMetric, models.SqlParam)

    def loaded(target: object, context: object) -> None:
        counts[type(target).__name__] += 1

    def executed(*_: object) -> None:
        counts["statements"] += 1

    listeners: list[tuple[Any, str, Any]] = [(kind, "load", loaded) for kind in kinds]
    listeners.append((sqlalchemy.Engine, "before_cursor_execute", executed))
    for target, name, function in listeners:
        event.listen(target, name, function)
    try:
        yield counts
    finally:
        for target, name, function in listeners:
            event.remove(target, name, function)


def read(uri: str) -> Counter[str]:
    """What reading the sweep asks of the database."""
    asked: Any = requests()
    with counted() as counts:
        frame = results(asked, "nano", uri, "demo")
    assert set(frame["state"]) == {"done"}
    assert list(frame["loss"]) == [loss_of(request) for request in asked]
    return counts


def loss_of(request: FakeRequest) -> float:
    run = LargeRun(request.run_id, request.cell_id, ("demo",), {})
    return dict(run.curve("validation/loss"))[POINTS]


def test_only_the_sweeps_own_runs_are_read_and_no_histories(stores: dict[int, str]) -> None:
    counts = read(stores[MANY])
    assert counts["SqlRun"] == len(requests()) == 9
    assert counts["SqlLatestMetric"] == 9 * len({*CURVES, *LAST})
    assert counts["SqlMetric"] == 0


def test_other_runs_cost_no_statement(stores: dict[int, str]) -> None:
    few, many = read(stores[FEW]), read(stores[MANY])
    assert few == many
    assert 0 < many["statements"] < 60


def test_without_the_sweeps_tag_everything_is_read(stores: dict[int, str]) -> None:
    """That the counts above would show it."""
    asked: Any = requests()
    with counted() as counts:
        frame = results(asked, "nano", stores[MANY])
    assert list(frame["loss"]) == [loss_of(request) for request in asked]
    assert counts["SqlRun"] == MANY


def test_the_store_holds_what_mlflows_own_client_would_write(
    stores: dict[int, str], empty: Path, tmp_path: Path
) -> None:
    from mlflow.entities import Metric, Param

    run = runs_of([("demo", request) for request in requests()], MANY)[0]  # type: ignore[misc]
    points = [
        Metric(name, value, 1000 + step, step) for name in CURVES for step, value in run.curve(name)
    ]
    points += [Metric(name, value, 1000 + POINTS, POINTS) for name, value in run.last().items()]
    path = shutil.copy(empty, tmp_path / "by_hand.db")
    with open_store(f"sqlite:///{path}") as client:
        written = client.create_run(client.create_experiment("x")).info.run_id
        client.log_batch(written, points, [Param(*item) for item in run.params.items()])
        expected = client.get_run(written).data
        curves = {n: client.get_metric_history(written, n) for n in expected.metrics}
    with open_store(stores[MANY]) as client:
        (found,) = client.search_runs(["1"], f"tags.`spam_lab.run_id` = '{run.run_id}'")
        assert found.data.params == expected.params
        assert found.data.metrics == expected.metrics
        assert len(found.data.metrics) == len({*CURVES, *LAST}) == 13
        for name, curve in curves.items():
            history = client.get_metric_history(found.info.run_id, name)
            assert [(m.step, m.value) for m in history] == [(m.step, m.value) for m in curve]
            assert len(history) == (POINTS if name in CURVES else 1)
