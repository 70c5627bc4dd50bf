"""From run directories to MLflow's record: one experiment a scale, a parent run a sweep or
study, a child a run.

It promises that the record is derived and exact: whatever was synced, killed or deleted before, a
sync leaves what one sync of a fresh store would leave (but for MLflow's own ids). It never writes
in a run directory, lets one writer at a time in, and skips what has not changed.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from spam_lab.record import entries
from spam_lab.record.entries import RunSource
from spam_lab.record.mlflow_store import (
    TrackingError,
    artifact_root,
    is_server,
    open_store,
    shown,
)
from spam_lab.record.notes import EXPERIMENT_NOTE, NOTE
from spam_lab.record.run_writer import Outcome, RunWriter, set_tags
from spam_lab.record.state import State
from spam_lab.record.store import StoreError, SweepManifest, run_directories, sweep_manifests

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Progress = Callable[[str], None]

_LOCK_SECONDS = 120.0
_PROGRESS_SECONDS = 5.0


@dataclass
class SyncReport:
    """What a sync did. `experiments` maps names to MLflow's ids; `states` counts the runs as they
    were read, those that a sweep asks for and that have no directory yet as planned; `pruned` of
    them were stopped by a study, and nobody is to go on with them."""

    store: str
    new: int = 0
    updated: int = 0
    unchanged: int = 0
    sweeps: int = 0
    experiments: dict[str, str] = field(default_factory=dict)
    states: Counter[State] = field(default_factory=Counter)
    pruned: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def unfinished(self) -> int:
        """How many runs have not ended, and are meant to."""
        left = sum(count for state, count in self.states.items() if not state.has_ended)
        return left - self.pruned


def sync(
    runs_root: Path,
    tracking_uri: str,
    *,
    progress: Progress | None = None,
    lock_seconds: float = _LOCK_SECONDS,
) -> SyncReport:
    """Bring the record up to date with every run directory under `runs_root`.

    A run directory that cannot be read, or that MLflow refuses, is named in the report and left
    out. `progress` is told, in words, what takes long.

    Raises:
        TrackingError: the store cannot be used, or another sync held the lock for `lock_seconds`.
        StoreError: a sweep's manifest cannot be understood.
    """
    tell = progress or (lambda _: None)
    with _only_writer(runs_root, lock_seconds, tell):
        report = SyncReport(shown(tracking_uri))
        manifests = _manifests(runs_root)
        sources = _sources(runs_root, report.problems, entries.pruned_runs(manifests))
        report.states = _states(manifests, sources)
        report.pruned = sum(source.is_pruned for source in sources.values())
        with open_store(tracking_uri) as client:
            location = None if is_server(tracking_uri) else artifact_root(runs_root)
            scales = {m.scale for m in manifests} | {s.scale for s in sources.values()}
            for scale in sorted(scales):
                name = entries.experiment_name(scale)
                report.experiments[name] = _experiment(client, name, location)
                _describe(client, report.experiments[name])
            _Writer(client, report, tell).write(manifests, sources)
        return report


class _Writer:
    """One sync's writing to an open store."""

    def __init__(self, client: MlflowClient, report: SyncReport, tell: Progress) -> None:
        self._client = client
        self._report = report
        self._tell = tell
        self._recorded: dict[tuple[str, str], Run] = {}

    def write(self, manifests: Sequence[SweepManifest], sources: Mapping[str, RunSource]) -> None:
        """Record every sweep and every run."""
        self._recorded = self._index()
        parents: dict[tuple[str, str], str] = {}
        for manifest in manifests:
            parents[manifest.name, manifest.scale] = self._write_sweep(manifest, sources)
        asked: dict[str, list[SweepManifest]] = defaultdict(list)
        for manifest in manifests:
            for run_id in dict.fromkeys(manifest.run_ids):
                asked[run_id].append(manifest)
        names = entries.run_names(sources, manifests)
        told = time.monotonic()
        for number, (run_id, source) in enumerate(sources.items(), start=1):
            sweeps = asked[run_id]
            first = next((m for m in sweeps if m.scale == source.scale), None)
            parent = parents[first.name, first.scale] if first else None
            tags = source.tags(names[run_id], sweeps, parent)
            self._write_or_report(source, tags)
            if time.monotonic() - told > _PROGRESS_SECONDS:
                told = time.monotonic()
                self._tell(f"recorded {number} of {len(sources)} runs")

    def _index(self) -> dict[tuple[str, str], Run]:
        """The runs that the record holds, by experiment and what they stand for."""
        found: dict[tuple[str, str], Run] = {}
        token: str | None = None
        while self._report.experiments and token != "":
            page = self._client.search_runs(
                list(self._report.experiments.values()),
                max_results=1000,
                order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
                page_token=token,
            )
            for run in page:
                key = _standing_for(run)
                if key and found.setdefault(key, run) is not run:
                    # A server that answered too late was asked twice to create it.
                    self._client.delete_run(run.info.run_id)
            token = page.token or ""
        return found

    def _write_sweep(self, manifest: SweepManifest, sources: Mapping[str, RunSource]) -> str:
        """Record a sweep's parent run; its MLflow id."""
        self._report.sweeps += 1
        tags, status = entries.sweep_tags(manifest, sources)
        experiment = self._report.experiments[entries.experiment_name(manifest.scale)]
        run = self._recorded.get((experiment, f"sweep {manifest.name}"))
        if run is None:
            run = self._client.create_run(experiment, tags=tags)
        set_tags(self._client, run, tags)
        if run.info.status != status:
            self._client.update_run(run.info.run_id, status=status)
        return str(run.info.run_id)

    def _write_or_report(self, source: RunSource, tags: dict[str, str]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            experiment = self._report.experiments[entries.experiment_name(source.scale)]
            recorded = self._recorded.get((experiment, f"run {source.run_id}"))
            outcome = RunWriter(self._client).write(experiment, recorded, source, tags)
            self._report.new += outcome is Outcome.NEW
            self._report.updated += outcome is Outcome.UPDATED
            self._report.unchanged += outcome is Outcome.UNCHANGED
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            self._report.problems.append(f"run {source.run_id}: MLflow refuses it: {error.message}")
        except StoreError as error:
            self._report.problems.append(str(error))


def _standing_for(run: Run) -> tuple[str, str] | None:
    """Experiment, kind and name of what an MLflow run records; None where it is not of ours."""
    kind = run.data.tags.get(entries.KIND)
    kind = "sweep" if kind in entries.KINDS_OF_SWEEP else kind  # one name is one or the other
    name = run.data.tags.get({"run": entries.RUN_ID, "sweep": entries.SWEEP}.get(kind or "", ""))
    return (run.info.experiment_id, f"{kind} {name}") if name else None


def _experiment(client: MlflowClient, name: str, location: str | None) -> str:
    """The id of an experiment, made or restored where it is not there."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _describe(client: MlflowClient, experiment_id: str) -> None:
    """Give the experiment its note, unless somebody wrote another."""
    if not client.get_experiment(experiment_id).tags.get(NOTE):
        client.set_experiment_tag(experiment_id, NOTE, EXPERIMENT_NOTE)


def _manifests(runs_root: Path) -> list[SweepManifest]:
    try:
        return sorted(sweep_manifests(runs_root), key=lambda manifest: manifest.name)
    except (ValueError, TypeError) as error:
        raise StoreError(f"a sweep's manifest cannot be understood: {error}") from None


def _sources(runs_root: Path, problems: list[str], pruned: Container[str]) -> dict[str, RunSource]:
    sources: dict[str, RunSource] = {}
    for directory in run_directories(runs_root):
        try:
            source = RunSource.read(directory)
            sources[directory.run_id] = replace(source, pruned=directory.run_id in pruned)
        except StoreError as error:
            problems.append(str(error))
        except (ValueError, LookupError, TypeError, OSError) as error:
            problems.append(f"{directory.path} cannot be understood: {error!r}")
    return sources


def _states(manifests: Sequence[SweepManifest], sources: Mapping[str, RunSource]) -> Counter[State]:
    asked = {run_id for manifest in manifests for run_id in manifest.run_ids}
    states = Counter(source.status.state for source in sources.values())
    states[State.PLANNED] += len(asked - set(sources))
    return states


@contextlib.contextmanager
def _only_writer(runs_root: Path, seconds: float, tell: Progress) -> Iterator[None]:
    """Hold the lock of the record; the system releases it should this process die."""
    path = runs_root / ".sync.lock"
    if not runs_root.is_dir():
        raise TrackingError(f"there are no runs at {runs_root}: no such folder")
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell(f"waiting for another sync of {runs_root}")
            lock.acquire(timeout=seconds)
    except Timeout:
        raise TrackingError(
            f"another sync of {runs_root} has held {path} for {seconds:g} s: let it finish or stop "
            "it, then sync again"
        ) from None
    except OSError as error:
        raise TrackingError(f"{path} cannot be locked: {error}") from None
    try:
        yield
    finally:
        lock.release()
