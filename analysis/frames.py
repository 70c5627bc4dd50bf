"""Results as a table: one row for each run that a sweep asked for, read from the MLflow record.

The record is filtered by tag in one paged search; histories are never read. A loss is given for
finished runs only: an unfinished run has none yet, and one that diverged has none at all (NaN,
never a number). A run that is not in the record has the state `missing`. `require_complete` refuses
a table with gaps, unless it is told that gaps are wanted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.stats import Cell
from spam_lab.orchestrate.grid import Value
from spam_lab.record.mlflow_store import open_store, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from spam_lab.orchestrate.expand import Request

MISSING = "missing"
NO_RESULT = "done without a loss"
RESULTS = ("done", "diverged")
"""States that are results; a run in any other state is incomplete."""

LARGEST_LOSS = 700.0
"""exp() of more overflows. MLflow keeps infinity as 1.8e308, which is no loss either."""

EXPERIMENT = "spam_lab "
"""What the name of a scale's experiment begins with."""

PAGE = 1000
SHOWN_CELLS = 8


class FrameError(RuntimeError):
    """A record that cannot be shown; the text says why and what to do."""


def results(
    requests: Sequence[Request], scale: str, tracking_uri: str, sweep: str | None = None
) -> pd.DataFrame:
    """One row a request: its labels, identity, state, loss, perplexity and spike counts.

    With `sweep`, only runs recorded for that sweep are searched, which is much faster in a large
    record. Columns: the labels', seed, run_id, cell_id, state, loss, perplexity, diverged,
    clipped_total, resets, step_seconds, optimizer_seconds, mlflow_run_id, and
    `values`: what validation last said of a finished run, by metric (`validation/...`).

    Raises:
        TrackingError: the record cannot be opened.
        FrameError: the record holds a run twice.
    """
    return table_of(requests, _records(scale, tracking_uri, {sweep: wanted(requests)}))


def recorded(
    asked: Mapping[str, Sequence[Request]], scale: str, tracking_uri: str
) -> Mapping[str, Run]:
    """The record of every run that these sweeps ask for, by run_id; the store is opened once.

    Raises:
        TrackingError: the record cannot be opened.
        FrameError: the record holds a run twice.
    """
    by_sweep = {sweep: wanted(requests) for sweep, requests in asked.items()}
    return _records(scale, tracking_uri, by_sweep)


def recorded_scales(tracking_uri: str) -> list[str]:
    """The scales that the record has an experiment of.

    Raises:
        TrackingError: the record cannot be opened.
    """
    path = sqlite_path(tracking_uri)
    if path is not None and not path.exists():
        return []
    with open_store(tracking_uri) as client:
        names = [str(experiment.name) for experiment in client.search_experiments()]
    return sorted(n.removeprefix(EXPERIMENT) for n in names if n.startswith(EXPERIMENT))


def wanted(requests: Sequence[Request]) -> set[str]:
    """The run_ids of the requests."""
    return {request.run_id for request in requests}


def table_of(requests: Sequence[Request], records: Mapping[str, Run]) -> pd.DataFrame:
    """As `results`, of records that were read before."""
    rows = [
        {**request.labels, **_row(request, records.get(request.run_id))} for request in requests
    ]
    # Objects, so that None (no clipping) stays None and 500 stays an integer beside it.
    frame = pd.DataFrame(rows, dtype=object)
    numbers = ("loss", "perplexity", "clipped_total", "resets", "step_seconds", "optimizer_seconds")
    return frame.astype({name: float for name in numbers} | {"diverged": bool, "seed": int})


def require_complete(frame: pd.DataFrame, allow_incomplete: bool, command: str) -> None:
    """Refuse a frame with runs that have no result, naming them and the command to run.

    Raises:
        FrameError: runs are incomplete and `allow_incomplete` is not set.
    """
    gaps = frame[~frame["state"].isin(RESULTS)]
    if gaps.empty or allow_incomplete:
        return
    runs = gaps.drop_duplicates("run_id")
    total = frame["run_id"].nunique()
    states = Counter(runs["state"])
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    cells = list(dict.fromkeys(_cell_label(row) for row in rows_of(gaps)))
    shown = ", ".join(cells[:SHOWN_CELLS])
    if len(cells) > SHOWN_CELLS:
        shown += f" and {len(cells) - SHOWN_CELLS} more"
    raise FrameError(
        f"{len(runs)} of {total} runs have no result ({counted}), in the cells {shown}. "
        f"To run them: {command}. To show what there is: --allow-incomplete"
    )


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def cells(
    frame: pd.DataFrame, name: Callable[[str, Value], str], metric: str = "validation/loss"
) -> dict[tuple[str, Value], Cell]:
    """The runs by (panel, value), in the frame's order; `name` says what a cell is called.

    `metric` is what a cell's runs are compared by, one of the column `values`.
    """
    grouped: dict[tuple[str, Value], list[dict[str, Any]]] = {}
    for row in rows_of(frame):
        grouped.setdefault((row["panel"], row["value"]), []).append(row)
    return {key: _cell(name(*key), rows, metric) for key, rows in grouped.items()}


def _cell(name: str, rows: list[dict[str, Any]], metric: str) -> Cell:
    done = {row["seed"]: row["values"][metric] for row in rows if row["state"] == "done"}
    return Cell(
        name=name,
        cell_id=rows[0]["cell_id"],
        losses=done,
        diverged=frozenset(row["seed"] for row in rows if row["state"] == "diverged"),
        incomplete={row["seed"]: row["state"] for row in rows if row["state"] not in RESULTS},
    )


def _cell_label(row: dict[str, Any]) -> str:
    value = row.get("value")
    return f"{row.get('panel')}={'none' if value is None else value}"


def _records(
    scale: str, tracking_uri: str, asked: Mapping[str, set[str]] | Mapping[str | None, set[str]]
) -> dict[str, Run]:
    """The recorded runs among those that each sweep asks for, by run_id."""
    path = sqlite_path(tracking_uri)
    if path is not None and not path.exists():
        return {}  # to open it would create it
    found: dict[str, Run] = {}
    with open_store(tracking_uri) as client:
        experiment = client.get_experiment_by_name(f"{EXPERIMENT}{scale}")
        if experiment is None:
            return {}
        for sweep, ids in asked.items():
            if ids <= found.keys():
                continue  # all of them serve a sweep before this one
            for run in _search(client, experiment.experiment_id, sweep):
                run_id = run.data.tags.get("spam_lab.run_id", "")
                if run_id in ids:
                    _require_single(found.get(run_id), run, run_id)
                    found[run_id] = run
    return found


def _search(client: MlflowClient, experiment: str, sweep: str | None) -> Iterator[Run]:
    """The runs of a sweep, or all there are, page by page."""
    condition = "tags.`spam_lab.kind` = 'run'"
    if sweep is not None:
        condition += f" and tags.`spam_lab.sweep.{sweep}` = 'true'"
    token: str | None = ""
    while token is not None:
        page = client.search_runs(
            [experiment], condition, max_results=PAGE, page_token=token or None
        )
        yield from page
        token = page.token or None


def _require_single(known: Run | None, run: Run, run_id: str) -> None:
    if known is not None and known.info.run_id != run.info.run_id:
        raise FrameError(
            f"the record holds run {run_id} twice (MLflow runs {known.info.run_id} and "
            f"{run.info.run_id}): delete the one that is not from the run directory"
        )


def _row(request: Request, run: Run | None) -> dict[str, Any]:
    metrics: dict[str, float] = {} if run is None else run.data.metrics
    state = MISSING if run is None else run.data.tags.get("spam_lab.state", MISSING)
    if metrics.get("diverged") == 1:
        state = "diverged"
    loss, values = math.nan, {}
    if state == "done":
        values = {key: v for key, v in metrics.items() if key.startswith("validation/")}
        loss = metrics.get("validation/loss", math.nan)
        if not values or ("validation/loss" in values and not abs(loss) < LARGEST_LOSS):
            loss, values, state = math.nan, {}, NO_RESULT
    return {
        "seed": request.seed,
        "run_id": request.run_id,
        "cell_id": request.cell_id,
        "state": state,
        "loss": loss,
        "values": values,
        "perplexity": math.exp(loss),
        "diverged": state == "diverged",
        "clipped_total": metrics.get("spam/clipped_total", math.nan),
        "resets": metrics.get("spam/resets", math.nan),
        "step_seconds": metrics.get("train/step_seconds", math.nan),
        "optimizer_seconds": metrics.get("train/optimizer_seconds", math.nan),
        "mlflow_run_id": "" if run is None else run.info.run_id,
    }
