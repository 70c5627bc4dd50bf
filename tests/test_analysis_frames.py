"""Results from a real MLflow store: what is read, what is refused, and what is never a number."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest

from analysis.frames import FrameError, cells, require_complete, results
from analysis.stats import Verdict, compare
from spam_lab.config.schema import SCHEMA_VERSION
from spam_lab.orchestrate.grid import Cell, Sweep
from spam_lab.record.metrics import MetricWriter
from spam_lab.record.mlflow_store import TrackingError, tracking_uri
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, SweepManifest
from spam_lab.record.tracking import sync
from tests.analysis_store import FakeRequest, Outcome, make_store, record, requests_of

ADAM = {"model": "llama_60m", "optimizer": "adam"}
SPAM = {"model": "llama_60m", "optimizer": "spam"}
SWEEP = Sweep(
    "demo",
    "Does it work?",
    (
        Cell({"panel": "theta", "value": 500}, {**SPAM, "optimizer.theta": 500}),
        Cell({"panel": "theta", "value": None}, {**SPAM, "optimizer.spike_rule": "none"}),
        Cell({"panel": "again", "value": 500}, {**SPAM, "optimizer.theta": 500}),
        Cell({"panel": "adam", "value": None}, ADAM),
    ),
    (0, 1, 2),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


def frame_of(
    shared: Path, folder: Path, chosen: dict[tuple[object, int], Outcome | None]
) -> tuple[list[FakeRequest], pd.DataFrame]:
    """Chosen outcomes for (value, seed) of panel theta; the loss is 3 + seed/10 elsewhere."""
    requests = requests_of(SWEEP)

    def outcome(request: FakeRequest) -> Outcome | None:
        usual = Outcome(3 + request.seed / 10)
        if request.labels["panel"] != "theta":
            return usual
        return chosen.get((request.labels["value"], request.seed), usual)

    uri = make_store(shared, folder / "mlflow.db", "demo", requests, outcome)
    return requests, results(requests, "nano", uri, "demo")


def test_one_row_a_request_in_order(shared: Path, tmp_path: Path) -> None:
    requests, frame = frame_of(shared, tmp_path, {})
    assert list(frame["run_id"]) == [request.run_id for request in requests]
    assert list(frame["seed"]) == [0, 1, 2] * 4
    assert frame["value"][0] == 500
    assert isinstance(frame["value"][0], int)
    assert frame["value"][3] is None
    assert set(frame["state"]) == {"done"}
    assert frame["loss"][1] == 3.1
    assert frame["perplexity"][1] == math.exp(3.1)
    assert frame["clipped_total"][0] == 1200
    assert frame["resets"][0] == 4
    assert all(frame["mlflow_run_id"].str.len() == 32)
    require_complete(frame, False, "unused")


def test_shared_runs_serve_every_cell_that_asks(shared: Path, tmp_path: Path) -> None:
    _, frame = frame_of(shared, tmp_path, {})
    assert list(frame["run_id"][:3]) == list(frame["run_id"][6:9])
    known = cells(frame, lambda panel, value: f"{panel} {value}")
    comparison = compare(known["theta", 500], known["again", 500])
    assert comparison.verdict is Verdict.UNDECIDED
    assert "same runs" in comparison.reason


def test_what_has_no_result_has_no_loss(shared: Path, tmp_path: Path) -> None:
    chosen = {
        (None, 0): Outcome(2.0, "running"),
        (None, 1): Outcome(2.0, "failed"),
        (None, 2): None,
    }
    _, frame = frame_of(shared, tmp_path, chosen)
    assert list(frame["state"][3:6]) == ["running", "failed", "missing"]
    assert frame["loss"][3:6].isna().all()
    assert frame["perplexity"][3:6].isna().all()
    cell = cells(frame, lambda panel, value: "x")["theta", None]
    assert cell.incomplete == {0: "running", 1: "failed", 2: "missing"}
    assert cell.perplexity is None


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(math.nan, "diverged", diverged=True),
        Outcome(6.0, "diverged"),
        Outcome(6.0, "done", diverged=True),
    ],
)
def test_a_diverged_run_is_never_a_number(shared: Path, tmp_path: Path, outcome: Outcome) -> None:
    _, frame = frame_of(shared, tmp_path, {(None, 1): outcome})
    assert frame["state"][4] == "diverged"
    assert frame["diverged"][4]
    assert math.isnan(frame["loss"][4])
    assert math.isnan(frame["perplexity"][4])
    require_complete(frame, False, "unused")
    cell = cells(frame, lambda panel, value: "x")["theta", None]
    assert cell.perplexity is None
    assert cell.diverged == {1}


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_done_without_a_finite_loss_is_a_gap(
    shared: Path, tmp_path: Path, loss: float | None
) -> None:
    # MLflow keeps infinity as 1.8e308, which is finite and means nothing.
    _, frame = frame_of(shared, tmp_path, {(None, 1): Outcome(loss)})
    assert frame["state"][4] == "done without a loss"
    assert math.isnan(frame["loss"][4])
    with pytest.raises(FrameError, match="1 done without a loss"):
        require_complete(frame, False, "launch")


def test_refusal_counts_runs_and_names_cells_and_command(shared: Path, tmp_path: Path) -> None:
    chosen = {
        (500, 0): None,
        (500, 2): Outcome(3.0, "failed"),
        (None, 1): Outcome(3.0, "timed_out"),
    }
    _, frame = frame_of(shared, tmp_path, chosen)
    with pytest.raises(FrameError) as caught:
        require_complete(frame, False, "python launch.py sweep=demo scale=nano")
    text = str(caught.value)
    # The cell `again` shares its runs with theta=500: two of nine runs, in both cells.
    assert "3 of 9 runs have no result (1 failed, 1 missing, 1 timed_out)" in text
    assert "theta=500, theta=none, again=500" in text
    assert "python launch.py sweep=demo scale=nano" in text
    assert "--allow-incomplete" in text
    require_complete(frame, True, "unused")


def test_no_record_is_all_missing_and_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    frame = results(requests_of(SWEEP), "nano", f"sqlite:///{path}", "demo")
    assert set(frame["state"]) == {"missing"}
    assert not path.exists()


def test_other_scales_and_sweeps_are_not_read(shared: Path, tmp_path: Path) -> None:
    requests = requests_of(SWEEP)
    uri = make_store(shared, tmp_path / "m.db", "other", requests, lambda _: Outcome(3.0))
    assert set(results(requests, "nano", uri, "demo")["state"]) == {"missing"}
    assert set(results(requests, "small", uri, "other")["state"]) == {"missing"}
    assert set(results(requests, "nano", uri)["state"]) == {"done"}


def test_a_run_recorded_twice_is_refused(shared: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    requests = requests_of(SWEEP)
    uri = make_store(shared, tmp_path / "m.db", "demo", requests, lambda _: Outcome(3.0))
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("spam_lab nano")
    assert experiment is not None
    record(client, experiment.experiment_id, "demo", requests[0], Outcome(2.0))
    with pytest.raises(FrameError, match="twice"):
        results(requests, "nano", uri, "demo")


def test_a_deleted_run_is_missing(shared: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    requests = requests_of(SWEEP)
    uri = make_store(shared, tmp_path / "m.db", "demo", requests, lambda _: Outcome(3.0))
    MlflowClient(uri).delete_run(results(requests, "nano", uri, "demo")["mlflow_run_id"][0])
    assert results(requests, "nano", uri, "demo")["state"][0] == "missing"


def test_a_damaged_store_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(TrackingError):
        results(requests_of(SWEEP), "nano", f"sqlite:///{path}", "demo")


def test_pages_are_followed(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.frames.PAGE", 2)
    _, frame = frame_of(shared, tmp_path, {})
    assert set(frame["state"]) == {"done"}


def test_requests_are_plain_data() -> None:
    from spam_lab.orchestrate.expand import Request

    names = [field.name for field in dataclasses.fields(Request)]
    assert names == [field.name for field in dataclasses.fields(FakeRequest)]


def test_reads_what_the_laboratory_itself_records(tmp_path: Path) -> None:
    requests = requests_of(SWEEP)[:3]
    for request in requests:
        directory = RunDirectory(tmp_path, request.run_id)
        config = dataclasses.asdict(request.config)
        directory.create(request.cell_id, SCHEMA_VERSION, config)
        directory.move(State.SUBMITTED)
        directory.move(State.RUNNING, steps=2)
        if request.seed == 2:
            continue
        loss = math.inf if request.seed == 1 else 2.5
        writer = MetricWriter(directory.metrics_path)
        writer.add(1, {"validation/loss": 4.0, "spam/clipped_total": 7, "spam/resets": 0})
        writer.add(2, {"validation/loss": loss, "spam/clipped_total": 9, "spam/resets": 1})
        writer.add(2, {"train/step_seconds": 0.25, "train/optimizer_seconds": 0.05})
        writer.flush()
        directory.move(State.DIVERGED if request.seed == 1 else State.DONE, step=2)
    SweepManifest("demo", "nano", [request.run_id for request in requests]).write(tmp_path)
    uri = tracking_uri(tmp_path)
    sync(tmp_path, uri)
    frame = results(requests, "nano", uri, "demo")
    assert list(frame["state"]) == ["done", "diverged", "running"]
    assert frame["loss"][0] == 2.5
    assert frame["loss"][1:].isna().all()
    assert (frame["clipped_total"][0], frame["resets"][0]) == (9, 1)
    assert (frame["step_seconds"][0], frame["optimizer_seconds"][0]) == (0.25, 0.05)
