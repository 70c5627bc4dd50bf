"""A large MLflow record for measurements: ten thousand runs as a group's server holds after a year.

Every run has 50 params, 10 last metrics and 3 curves of 100 points; the runs of the sweeps that are
named are among them, with results, and each of the others belongs to one of many further sweeps.
The rows are written in bulk into the tables that MLflow itself made, through MLflow's own table
definitions, and read by MLflow's own client.

`python -m tests.large_store [SWEEP ...]` measures exhibits over such a store, on sqlite and on
PostgreSQL.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spam_lab.config.labels import flatten
from spam_lab.orchestrate.expand import Request, expand, load_sweep
from spam_lab.record.mlflow_store import open_store, sqlite_path
from tests.conftest import ROOT
from tests.postgres import ensure_installed, running_postgres

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

RUNS, PARAMS, POINTS = 10_000, 50, 100
CURVES = ("train/loss", "train/grad_norm", "validation/loss")
LAST = (
    "validation/perplexity",
    "train/lr",
    "train/tokens_per_second",
    "train/step_seconds",
    "train/optimizer_seconds",
    "train/memory_bytes",
    "spam/clipped",
    "spam/clipped_total",
    "spam/resets",
    "diverged",
)
SWEEP_RUNS = 50
"""Runs of each of the sweeps that nobody asks for."""

_START_MS = 1_790_000_000_000
_BATCH = 200
"""Runs that are inserted together."""


@dataclass(frozen=True)
class LargeRun:
    """One run of the record: a sweep's, or one that fills it."""

    run_id: str
    cell_id: str
    sweeps: tuple[str, ...]
    params: dict[str, str]

    def share(self, name: str) -> float:
        """A number in [0, 1) that depends on the run and a name alone."""
        digest = hashlib.sha256(f"{self.run_id} {name}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64

    def last(self) -> dict[str, float]:
        """Its last metrics."""
        values = {name: self.share(name) for name in LAST}
        return values | {"diverged": 0.0, "spam/resets": 6.0}

    def curve(self, name: str) -> Iterator[tuple[int, float]]:
        """Step and value of one of its curves: from about 7 down to about 3."""
        floor = 3 + 0.2 * self.share(name)
        return ((step, floor + 4 / step) for step in range(1, POINTS + 1))


def runs_of(requests: Sequence[tuple[str, Request]], count: int) -> list[LargeRun]:
    """`count` runs: those of the requests (each with its sweep's name), and others to fill up."""
    asked: dict[str, LargeRun] = {}
    for sweep, request in requests:
        known = asked.get(request.run_id)
        sweeps = tuple(dict.fromkeys([*(known.sweeps if known else ()), sweep]))
        params = _params(request)
        asked[request.run_id] = LargeRun(request.run_id, request.cell_id, sweeps, params)
    runs = list(asked.values())
    params = runs[0].params
    for number in range(count - len(runs)):
        name = f"other{number // SWEEP_RUNS}"
        run_id = hashlib.sha256(f"other {number}".encode()).hexdigest()[:16]
        seeds = {"seed": str(number), "data_seed": str(number)}
        runs.append(LargeRun(run_id, f"cell{number // 3}", (name,), params | seeds))
    # Among one another, as they are when several people's sweeps go on together.
    return sorted(runs, key=lambda run: run.run_id)


def _params(request: Request) -> dict[str, str]:
    items = list(flatten(asdict(request.config)).items())[:PARAMS]
    return {key: str(value) for key, value in items}


def fill(uri: str, scale: str, runs: Sequence[LargeRun], artifacts: Path) -> None:
    """Write a record of these runs into the store at `uri`, which must be a new one."""
    import sqlalchemy

    with open_store(uri) as client:
        experiment = client.create_experiment(f"spam_lab {scale}", artifacts.as_uri())
        for sweep in sorted({name for run in runs for name in run.sweeps}):
            client.create_run(experiment, tags={"spam_lab.kind": "sweep", "spam_lab.sweep": sweep})
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            if sqlite_path(uri):  # rows come in no index's order: keep the indices in memory
                connection.exec_driver_sql("PRAGMA cache_size = -1000000")
                connection.exec_driver_sql("PRAGMA synchronous = OFF")
            for first in range(0, len(runs), _BATCH):
                _insert(connection, int(experiment), runs[first : first + _BATCH], artifacts)
                if not sqlite_path(uri):
                    connection.commit()
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
    finally:
        engine.dispose()


def _insert(
    connection: Connection, experiment: int, runs: Sequence[LargeRun], artifacts: Path
) -> None:
    from mlflow.store.tracking.dbmodels import models

    ids = {run.run_id: uuid.uuid4().hex for run in runs}
    metrics = [row for run in runs for row in _metric_rows(run, ids[run.run_id])]
    latest = [row for row in metrics if row["step"] == POINTS]
    content: list[tuple[Any, list[dict[str, Any]]]] = [
        (models.SqlRun, [_run_row(run, ids[run.run_id], experiment, artifacts) for run in runs]),
        (models.SqlTag, [r for run in runs for r in _rows(ids[run.run_id], _tags(run))]),
        (models.SqlParam, [r for run in runs for r in _rows(ids[run.run_id], run.params)]),
        (models.SqlMetric, metrics),
        (models.SqlLatestMetric, latest),
    ]
    for model, rows in content:
        _insert_rows(connection, model.__table__, rows)


def _insert_rows(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if connection.dialect.name != "postgresql":
        connection.execute(table.insert(), rows)
        return
    cursor: Any = connection.connection.cursor()
    columns = ", ".join(rows[0])
    with cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:  # INSERT is far slower
        for row in rows:
            copy.write_row(list(row.values()))


def _run_row(run: LargeRun, mlflow_id: str, experiment: int, artifacts: Path) -> dict[str, Any]:
    return {
        "run_uuid": mlflow_id,
        "name": _tags(run)["mlflow.runName"],
        "source_type": "LOCAL",
        "source_name": "",
        "entry_point_name": "",
        "user_id": "lab",
        "status": "FINISHED",
        "start_time": _START_MS,
        "end_time": _START_MS + POINTS,
        "source_version": "",
        "lifecycle_stage": "active",
        "artifact_uri": f"{artifacts.as_uri()}/{mlflow_id}/artifacts",
        "experiment_id": experiment,
    }


def _tags(run: LargeRun) -> dict[str, str]:
    return {
        "mlflow.runName": f"run {run.run_id}",
        "mlflow.user": "lab",
        "spam_lab.kind": "run",
        "spam_lab.run_id": run.run_id,
        "spam_lab.cell_id": run.cell_id,
        "spam_lab.state": "done",
        "spam_lab.attempts": "1",
        "spam_lab.host": "node",
        **{f"spam_lab.sweep.{name}": "true" for name in run.sweeps},
    }


def _rows(mlflow_id: str, values: dict[str, str]) -> list[dict[str, Any]]:
    return [{"run_uuid": mlflow_id, "key": key, "value": values[key]} for key in values]


def _metric_rows(run: LargeRun, mlflow_id: str) -> Iterator[dict[str, Any]]:
    points = [(name, step, value) for name in CURVES for step, value in run.curve(name)]
    points += [(name, POINTS, value) for name, value in run.last().items()]
    for name, step, value in points:
        yield {
            "run_uuid": mlflow_id,
            "key": name,
            "step": step,
            "timestamp": _START_MS + step,
            "value": value,
            "is_nan": False,
        }


def requests_of(sweeps: Sequence[str], scale: str) -> list[tuple[str, Request]]:
    """The requests of these sweeps at a scale, each with its sweep's name."""
    overrides = [f"scale={scale}"]
    return [(name, request) for name in sweeps for request in expand(load_sweep(name), overrides)]


@contextmanager
def _timed(what: str) -> Iterator[None]:
    """Print how long the block took, and the processor time of programs that it ran."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    yield
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{what}: {wall:.1f} s" + (f", {used:.1f} s of CPU" if used else ""), flush=True)


def _measure(uri: str, where: str, words: Sequence[str], times: int, folder: Path) -> None:
    """Time `python -m analysis WORDS` over the store."""
    command = [sys.executable, "-m", "analysis", *words, "--reports", str(folder / "reports")]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "SPAM_LAB_RUNS": str(folder / "runs")}
    for number in range(times):
        with _timed(f"{where}: analysis {' '.join(words)}, time {number + 1}"):
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True
            )
        if done.returncode:
            print(done.stderr.strip(), flush=True)


def main() -> None:
    """Make both stores and measure exhibits over them."""
    parser = argparse.ArgumentParser(prog="python -m tests.large_store", description=__doc__)
    parser.add_argument("sweeps", nargs="*", default=["figure9"], help="those with results in it")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--scale", default="nano")
    parser.add_argument("--show", nargs="+", help="words of the command (default: the sweeps)")
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="an sqlite file to keep, or to measure again")
    options = parser.parse_args()
    words = options.show or options.sweeps
    runs = runs_of(requests_of(options.sweeps, options.scale), options.runs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = options.keep.resolve() if options.keep else folder / "mlflow.db"
        stores = [("sqlite", f"sqlite:///{path}")]
        with running_postgres() as postgres:
            stores.append(("PostgreSQL", postgres.uri))
            for where, uri in stores:
                kept = sqlite_path(uri)
                if kept is None or not kept.exists():
                    with _timed(f"{where}: {len(runs):,} runs written"):
                        fill(uri, options.scale, runs, folder / "artifacts")
                _measure(uri, where, words, options.times, folder)


if __name__ == "__main__":
    missing = ensure_installed()
    sys.exit(missing) if missing else main()
