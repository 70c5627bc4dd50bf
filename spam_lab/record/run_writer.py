"""Writing one run's entry to MLflow: its tags, params, curves, artifacts, times and status.

It promises exactness through a mark: a tag that holds the digest of what was completely written,
and is empty while writing goes on. Where the mark does not vouch for what the store holds, the
store is asked; where it holds a point that it should not (the run was rewound), MLflow cannot take
it out, so the run is deleted there and written anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from spam_lab.record import entries
from spam_lab.record.entries import RunSource
from spam_lab.record.points import Point, points_digest, recordable_points
from spam_lab.record.store import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow import MlflowClient
    from mlflow.entities import Run

_SYNCED = f"{entries.PREFIX}synced"
"""The mark: digest of the entry, number of points and their digest, joined by dots."""
_SYNCED_STEP = f"{entries.PREFIX}synced_step"


class Outcome(Enum):
    """What writing an entry came to."""

    NEW = "new"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


class RunWriter:
    """Writes runs to an open store."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def write(
        self, experiment: str, recorded: Run | None, source: RunSource, tags: dict[str, str]
    ) -> Outcome:
        """Write one run, unless nothing changed since it was last written.

        Raises:
            StoreError: the run's metrics cannot be understood; nothing was written.
        """
        digest = entries.entry_digest(tags, source.status.updated_ms)
        status = source.mlflow_status
        if recorded and _mark(recorded)[0] == digest and recorded.info.status == status:
            return Outcome.UNCHANGED
        points = _points(source)
        start_ms = min((point.time_ms for point in points), default=source.created_ms)
        end_ms = max((point.time_ms for point in points), default=start_ms)
        run = recorded
        missing: list[Point] | None = None
        if run is not None:
            # MLflow cannot move a start either: a run first seen before its first metric.
            missing = self._missing(run, points) if run.info.start_time == start_ms else None
            if missing is None:
                self._client.delete_run(run.info.run_id)
        if run is None or missing is None:
            run = self._client.create_run(experiment, start_time=start_ms, tags=tags)
            missing = points
        self._fill(run, source, missing)
        if status in ("FINISHED", "FAILED") and not source.is_pruned:
            self._client.set_terminated(run.info.run_id, status, end_ms)
        elif run.info.status != status:
            # No end time, which could not be taken back: a run that was killed or pruned may go on.
            self._client.update_run(run.info.run_id, status=status)
        mark = {  # the mark itself comes last: nothing may be left to do once it is there
            _SYNCED_STEP: str(max((point.step for point in points), default=0)),
            _SYNCED: f"{digest}.{len(points)}.{points_digest(points)}",
        }
        set_tags(self._client, run, tags | mark)
        return Outcome.UPDATED if recorded else Outcome.NEW

    def _missing(self, run: Run, points: list[Point]) -> list[Point] | None:
        """The points that the run lacks; None where it holds one that it should not."""
        _, count, digest = _mark(run)
        if digest and points_digest(points[:count]) == digest:
            return points[count:]
        recorded = {
            Point(name, metric.step, metric.timestamp, metric.value).key
            for name in run.data.metrics
            for metric in self._client.get_metric_history(run.info.run_id, name)
        }
        missing = [point for point in points if point.key not in recorded]
        return missing if len(missing) + len(recorded) == len(points) else None

    def _fill(self, run: Run, source: RunSource, points: list[Point]) -> None:
        """Log points, and where the run may lack them its params, dataset and artifacts."""
        from mlflow.entities import Metric, Param

        run_id = run.info.run_id
        whole = bool(_mark(run)[2])
        if whole:
            self._client.set_tag(run_id, _SYNCED, "")
        metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in points]
        params = [] if whole else [Param(*item) for item in source.params().items()]
        self._client.log_batch(run_id, metrics=metrics, params=params)
        dataset = source.dataset()
        if dataset and not (run.inputs and run.inputs.dataset_inputs):
            self._client.log_inputs(run_id, [dataset.as_input()])
        if not whole:
            self._log_artifact(run_id, source.directory.path / "config.json")
        if not whole or run.data.tags.get(entries.ATTEMPTS) != str(len(source.provenance)):
            self._log_artifact(run_id, source.directory.path / "provenance.json")

    def _log_artifact(self, run_id: str, path: Path) -> None:
        if path.exists():
            self._client.log_artifact(run_id, str(path))


def set_tags(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    """Make the tags of ours that `run` was read with exactly these, written in this order."""
    from mlflow.entities import RunTag

    for key in run.data.tags:
        ours = key.startswith(entries.PREFIX) or key in (entries.PARENT, entries.COMMIT)
        if ours and key not in tags:
            client.delete_tag(run.info.run_id, key)
    changed = [
        RunTag(key, value)
        for key, value in tags.items()
        if key == _SYNCED or run.data.tags.get(key) != value  # it was emptied since the reading
    ]
    client.log_batch(run.info.run_id, tags=changed)


def _mark(run: Run) -> tuple[str, int, str]:
    """Digest of the entry, number of points and their digest at the last complete write."""
    parts = run.data.tags.get(_SYNCED, "").split(".")
    if len(parts) != 3 or not parts[1].isdigit():
        return "", 0, ""
    return parts[0], int(parts[1]), parts[2]


def _points(source: RunSource) -> list[Point]:
    path = source.directory.metrics_path
    try:
        return recordable_points(path, source.status)
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise StoreError(f"{path} cannot be understood: {error!r}") from None
