"""What an observed run saw of its gradients: the tables of `<run directory>/observations/`.

It promises pandas frames with the columns that `spam_lab/train/observation_files.py` lists, and a
refusal that names the run where there are none, or where the window has not ended yet. It owns the
score of Definition P.1 for trajectories, computed in float64 in two passes, which is the slow and
sure way to what the run counted as it went.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spam_lab.files import read_json
from spam_lab.record.store import RunDirectory, StoreError

if TYPE_CHECKING:
    from pandas import DataFrame, Series


class ObservationError(StoreError):
    """A run without observations; the text names it and says what to do."""


class Observations:
    """The observations of one run. Tables are read when they are first asked for.

    Args:
        directory: the run.
        allow_open: whether a window that has not ended will do. It lacks the reading "definition".

    Attributes:
        about: steps, window, closed, reason, thresholds, theta and peak_bytes.

    Raises:
        ObservationError: there are none, or the window has not ended.
    """

    def __init__(self, directory: RunDirectory, allow_open: bool = False) -> None:
        self._directory, self._folder = directory, directory.observations_path
        try:
            self.about: dict[str, Any] = read_json(self._folder / "about.json")
        except FileNotFoundError:
            raise ObservationError(
                f"run {directory.run_id} has no observations: it was trained without "
                "observe=spikes, or has not come to its first checkpoint"
            ) from None
        if not (self.about["closed"] or allow_open):
            raise ObservationError(
                f"run {directory.run_id} is still observed: it has come to step "
                f"{self.about['steps']} of {self.about['window']}"
            )

    @cached_property
    def parameters(self) -> DataFrame:
        """One row a tensor: name, kind, layer, entries."""
        return self._table("parameters")

    @cached_property
    def counts(self) -> DataFrame:
        """One row a step, tensor, reading and threshold: count, and examined entries."""
        return self._table("counts")

    @cached_property
    def coordinates(self) -> DataFrame:
        """One row a followed weight: coordinate, name, kind, layer, index, group_entries."""
        return self._table("coordinates")

    @cached_property
    def trajectories(self) -> DataFrame:
        """One row a step and followed weight: gradient, m, v."""
        return self._table("trajectories")

    def losses(self) -> Series[float]:
        """The training loss of every observed step, by step; NaN where none was written."""
        import pandas as pd

        losses = {line.step: line.values.get("train/loss") for line in self._directory.metrics()}
        steps = range(1, self.about["steps"] + 1)
        return pd.Series(losses, dtype=float).reindex(steps).rename("loss").rename_axis("step")

    def _table(self, name: str) -> DataFrame:
        import pandas as pd

        return pd.read_parquet(self._folder / f"{name}.parquet", engine="pyarrow")


def read_observations(root: Path, run_id: str, allow_open: bool = False) -> Observations:
    """The observations of a run under `root`. See `Observations`."""
    return Observations(RunDirectory(root, run_id), allow_open)


def total(counts: DataFrame, by: Sequence[str]) -> DataFrame:
    """Spikes by reading, threshold and the columns `by` (kind, layer, step, name).

    Returns:
        Those columns and count, examined: both summed over steps as well, unless `by` has step.
        Tensors outside the layers are one group, whose layer is missing.
    """
    keys = ["reading", "threshold", *by]
    grouped = counts.groupby(keys, observed=True, dropna=False, sort=False)
    return grouped[["count", "examined"]].sum().reset_index()


def scores(trajectories: DataFrame) -> DataFrame:
    """The trajectories with both Gradient Spike Scores of every gradient, in float64.

    Columns `definition` (|g_t| over the mean of |g| over all steps; paper, Definition P.1) and
    `running` (over the mean of the steps so far, t included). Both are NaN where that mean is 0.
    """
    table = trajectories.sort_values(["coordinate", "step"], kind="stable")
    magnitude = table["gradient"].astype("float64").abs()
    by_weight = magnitude.groupby(table["coordinate"])
    mean = by_weight.transform("mean")
    so_far = by_weight.cumsum() / (by_weight.cumcount() + 1)
    found = table.assign(
        definition=(magnitude / mean).where(mean > 0),
        running=(magnitude / so_far).where(so_far > 0),
    )
    return found.sort_index()
