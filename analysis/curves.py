"""Curves of evaluations over training, from the run directories: one point an evaluation and cell.

It promises that a point is over the seeds that have this evaluation, says how many, and has an
interval only with two seeds or more. A run that diverged has no curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.cell_table import Key
from analysis.frames import rows_of
from analysis.stats import Cell
from spam_lab.record.store import RunDirectory

LOSS = "validation/loss"

Curve = Mapping[int, Cell]
"""Step -> the losses of that evaluation by seed, or the values of another metric."""


def curves_of(
    frame: pd.DataFrame, cells: Mapping[Key, Cell], metric: str = LOSS
) -> dict[Key, dict[int, Cell]]:
    """The evaluations of each cell's finished runs; `frame` has the column `root`."""
    found: dict[Key, dict[int, dict[int, float]]] = {key: {} for key in cells}
    for row in rows_of(frame):
        if row["state"] != "done":
            continue
        for line in RunDirectory(Path(row["root"]), row["run_id"]).metrics():
            loss = line.values.get(metric, math.nan)
            if math.isfinite(loss):
                steps = found[row["panel"], row["value"]]
                steps.setdefault(line.step, {})[row["seed"]] = loss
    return {
        key: {step: _cell(cells[key], step, steps[step]) for step in sorted(steps)}
        for key, steps in found.items()
    }


def _cell(cell: Cell, step: int, losses: Mapping[int, float]) -> Cell:
    """One evaluation as a cell of its own: what is unfinished or diverged stays so."""
    return Cell(
        name=f"{cell.name} at step {step}",
        cell_id=cell.cell_id and f"{cell.cell_id}@{step}",
        losses=losses,
        diverged=cell.diverged,
        incomplete={
            **cell.incomplete,
            **dict.fromkeys(cell.losses.keys() - losses.keys(), "without this evaluation"),
        },
    )
