"""The table behind an exhibit: one row a cell, with its numbers, gaps and run_ids.

Every number that an exhibit prints comes from here, so the CSV, the Markdown and the figure cannot
disagree, and every number stands beside the run_ids that made it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.frames import rows_of
from analysis.stats import Cell, mean_interval
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

Key = tuple[str, Value]


def cell_table(
    frame: pd.DataFrame,
    requests: Sequence[Request],
    cells: Mapping[Key, Cell],
    mapped: Callable[[Request], str],
) -> pd.DataFrame:
    """One row a cell: panel, value as the paper prints it, value as run, statistics, runs."""
    first: dict[Key, Request] = {}
    for request in requests:
        key = (str(request.labels["panel"]), request.labels["value"])
        first.setdefault(key, request)
    groups: dict[Key, list[dict[str, Any]]] = {}
    for row in rows_of(frame):
        groups.setdefault((row["panel"], row["value"]), []).append(row)
    rows = [_row(key, cells[key], first[key], groups[key], mapped) for key in cells]
    return pd.DataFrame(rows)


def note(cell: Cell) -> str:
    """What is not whole about a cell; empty where every run finished and there are several."""
    notes = []
    if cell.diverged:
        notes.append(f"{len(cell.diverged)} of {cell.seeds} diverged")
    if cell.incomplete:
        states = ", ".join(sorted(set(cell.incomplete.values())))
        notes.append(f"incomplete: {len(cell.incomplete)} of {cell.seeds} {states}")
    if cell.seeds and cell.perplexity and not cell.perplexity.has_interval:
        notes.append("one seed: no interval")
    return "; ".join(notes)


def shown_perplexity(cell: Cell) -> str:
    """The mean with its half-width, or why there is none."""
    estimate = cell.perplexity
    if estimate is None:
        return "diverged" if cell.diverged else "–"
    if not estimate.has_interval:
        return f"{estimate.mean:.2f}"
    return f"{estimate.mean:.2f} ± {estimate.half_width:.2f}"


def shown_value(value: Value) -> str:
    """A label's value as the paper prints it."""
    return "None" if value is None else str(value).replace("_", " ")


def _row(
    key: Key,
    cell: Cell,
    request: Request,
    rows: list[dict[str, Any]],
    mapped: Callable[[Request], str],
) -> dict[str, Any]:
    panel, value = key
    perplexity = cell.perplexity
    loss = mean_interval(list(cell.losses.values())) if perplexity else None
    return {
        "panel": panel,
        "value": shown_value(value),
        "as_run": mapped(request),
        "model": request.config.model.name,
        "runs": cell.seeds,
        "n": len(cell.losses),
        "diverged": len(cell.diverged),
        "incomplete": len(cell.incomplete),
        "perplexity_mean": perplexity.mean if perplexity else math.nan,
        "perplexity_half_width_95": perplexity.half_width if perplexity else math.nan,
        "loss_mean": loss.mean if loss else math.nan,
        "loss_half_width_95": loss.half_width if loss else math.nan,
        "clipped_entries_mean": _mean_of(rows, "clipped_total"),
        "resets_mean": _mean_of(rows, "resets"),
        "cell_id": cell.cell_id,
        "losses": " ".join(f"{seed}:{cell.losses[seed]:.6f}" for seed in sorted(cell.losses)),
        "run_ids": " ".join(row["run_id"] for row in rows),
    }


def _mean_of(rows: list[dict[str, Any]], column: str) -> float:
    """The mean over finished runs that recorded it; NaN where none did."""
    known = [row[column] for row in rows if row["state"] == "done" and math.isfinite(row[column])]
    return sum(known) / len(known) if known else math.nan
