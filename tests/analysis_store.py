"""Stand-ins for the analysis tests: requests as plain data, and MLflow stores with chosen results.

The stores are written by the real MLflow client, so that what is read back is what MLflow keeps.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spam_lab.config.schema import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    PrecisionConfig,
    RunConfig,
    ScaleConfig,
    ScheduleConfig,
)
from spam_lab.orchestrate.grid import Sweep, Value


@dataclass(frozen=True)
class FakeRequest:
    """What `spam_lab.orchestrate.expand.Request` holds."""

    labels: Mapping[str, Value]
    seed: int
    run_id: str
    cell_id: str
    config: RunConfig
    tuned: str = ""


@dataclass
class FakeSpam(OptimizerConfig):
    """SPAM's hyperparameters, as far as exhibits read them."""

    delta_t: int = 50
    theta: float = 5000.0
    warmup_steps: int = 15
    selection: str = "random"
    spike_rule: str = "clip"


NANO = ScaleConfig(name="nano", width=8, run_length=50, interval=10, lr=8, tokenizer="bpe_1000")
INTERVAL = 10


def requests_of(sweep: Sweep, seeds: Sequence[int] | None = None) -> list[FakeRequest]:
    """Requests of a sweep's cells as `expand` would make them, at a scale of intervals ÷ 10."""
    return [
        _request(cell.labels, cell.overrides, seed)
        for cell in sweep.cells
        for seed in (sweep.seeds if seeds is None else seeds)
    ]


def _request(labels: Mapping[str, Value], overrides: Mapping[str, Value], seed: int) -> FakeRequest:
    values: dict[str, Any] = {}
    for key, value in overrides.items():
        field = key.removeprefix("optimizer.")
        if isinstance(value, str) and value.startswith("${scaled:interval,"):
            value = int(value.removeprefix("${scaled:interval,").rstrip("}")) // INTERVAL
        # As the typed config does: 5000 and 5000.0 are one run.
        values[field] = float(value) if field == "theta" else value  # type: ignore[arg-type]
    model, method = str(values.pop("model")), str(values.pop("optimizer"))
    optimizer = OptimizerConfig(method, 8e-3) if method == "adam" else FakeSpam(method, 8e-3)
    optimizer = replace(optimizer, **values)
    config = RunConfig(
        seed=seed,
        model=ModelConfig(model, "llama", 64, 172, 4, 2, 1000, paper_steps=10_000),
        data=DataConfig("embedded", tokenizer="bpe_1000", sequence_length=64, batch_size=4),
        optimizer=optimizer,
        schedule=ScheduleConfig(steps=200, warmup_steps=20),
        precision=PrecisionConfig("fp32"),
        scale=NANO,
    )
    cell_id = _hash(model, optimizer)
    return FakeRequest(labels, seed, _hash(cell_id, seed), cell_id, config)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """What one run left in the record; no loss means that none was logged."""

    loss: float | None = 3.0
    state: str = "done"
    diverged: bool = False
    clipped: float = 1200.0
    resets: float = 4.0
    step_seconds: float = 0.05
    optimizer_seconds: float = 0.01


Outcomes = Callable[[FakeRequest], Outcome | None]
"""The outcome of a request's run; None leaves it out of the record."""


@cache
def empty_store(folder: Path) -> Path:
    """A fresh MLflow database, made once: creating one takes seconds."""
    from mlflow.tracking import MlflowClient

    path = folder / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def make_store(
    shared: Path, path: Path, sweep: str, requests: Sequence[FakeRequest], outcomes: Outcomes
) -> str:
    """Write a record with the outcomes of the requests; return its tracking URI."""
    from mlflow.tracking import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_store(shared), path)
    uri = f"sqlite:///{path}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("spam_lab nano", artifact_location=str(path.parent))
    client.create_run(experiment, tags={"spam_lab.kind": "sweep", "spam_lab.sweep": sweep})
    for request in _once(requests):
        outcome = outcomes(request)
        if outcome is not None:
            record(client, experiment, sweep, request, outcome)
    return uri


def record(
    client: Any, experiment: str, sweep: str, request: FakeRequest, outcome: Outcome
) -> None:
    """Write one run as the laboratory's own writer would."""
    from mlflow.entities import Metric

    tags, values = _content(sweep, request, outcome)
    run = client.create_run(experiment, tags=tags)
    metrics = [Metric(key, value, 1_700_000_000_000, 200) for key, value in values.items()]
    client.log_batch(run.info.run_id, metrics=metrics)


def recorded_in_memory(
    sweep: str, requests: Sequence[FakeRequest], outcomes: Outcomes
) -> dict[str, Any]:
    """What reading such a record finds, without the seconds that a database takes."""
    found = {}
    for request in _once(requests):
        outcome = outcomes(request)
        if outcome is not None:
            tags, values = _content(sweep, request, outcome)
            found[request.run_id] = SimpleNamespace(
                data=SimpleNamespace(tags=tags, metrics=values),
                info=SimpleNamespace(run_id=f"mlflow{request.run_id}"),
            )
    return found


def _once(requests: Sequence[FakeRequest]) -> list[FakeRequest]:
    """The first request of every run."""
    first: dict[str, FakeRequest] = {}
    for request in requests:
        first.setdefault(request.run_id, request)
    return list(first.values())


def _content(
    sweep: str, request: FakeRequest, outcome: Outcome
) -> tuple[dict[str, str], dict[str, float]]:
    """Tags and last metrics of a run."""
    tags = {
        "spam_lab.kind": "run",
        "spam_lab.run_id": request.run_id,
        "spam_lab.cell_id": request.cell_id,
        f"spam_lab.sweep.{sweep}": "true",
        "spam_lab.state": outcome.state,
    }
    values = {
        "diverged": float(outcome.diverged),
        "spam/clipped_total": outcome.clipped,
        "spam/resets": outcome.resets,
        "train/step_seconds": outcome.step_seconds,
        "train/optimizer_seconds": outcome.optimizer_seconds,
    }
    if outcome.loss is not None:
        values["validation/loss"] = outcome.loss
        values["validation/perplexity"] = math.exp(min(outcome.loss, 600))
    return tags, values
