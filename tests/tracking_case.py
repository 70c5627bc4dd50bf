"""Run directories to record, and what a record says, for the tests of tracking."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spam_lab.record.metrics import MetricWriter, rewind
from spam_lab.record.mlflow_store import open_store, tracking_uri
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, SweepManifest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class GrowingRun:
    """A run directory that is taken through a training's life by hand."""

    def __init__(self, root: Path, number: int, steps: int = 40, **optimizer: Any) -> None:
        self.directory = RunDirectory(root, f"{number:016x}")
        config = {
            "seed": number % 2,
            "model": {"name": "llama_60m", "architecture": {"deep": {"x": None}}},
            "optimizer": {"name": "spam", "lr": 1e-3, "theta": 5000.0, **optimizer},
            "scale": {"name": "nano", "width": 8.0},
            "train": {"device": "cpu"},
            "paths": {"runs": "elsewhere"},
        }
        self.directory.create(f"cell{number // 2}", 1, config)
        self.directory.move(State.SUBMITTED, steps=steps)
        self.step = 0

    def start(self) -> GrowingRun:
        """Begin an attempt where the last checkpoint is."""
        status = self.directory.status()
        if status.state is not State.SUBMITTED:
            self.directory.move(State.SUBMITTED)
        commit = f"commit{status.attempt}"
        self.directory.add_provenance({"git_commit": commit, "git_dirty": False})
        self.step = status.checkpoint_step
        rewind(self.directory.metrics_path, self.step)
        self.directory.move(State.RUNNING, attempt=status.attempt + 1, host="here", reason="")
        return self

    def train(self, steps: int, **values: float) -> GrowingRun:
        """Append lines; every tenth step has an evaluation, written after its training loss."""
        writer = MetricWriter(self.directory.metrics_path)
        for _ in range(steps):
            self.step += 1
            loss = 1.0 / self.step
            writer.add(self.step, {"train/loss": loss, "train/norm": loss / 3, **values})
            if self.step % 10 == 0:
                writer.add(self.step, {"validation/loss": loss * 2})
        writer.flush()
        return self

    def checkpoint(self) -> GrowingRun:
        """Report a checkpoint at the present step."""
        self.directory.report(step=self.step, checkpoint_step=self.step)
        return self

    def end(self, state: State, reason: str = "") -> GrowingRun:
        """Move to a state that ends the attempt."""
        self.directory.move(state, step=self.step, reason=reason)
        return self


def finished_runs(root: Path, count: int) -> None:
    """Some runs that are done, half of them in a sweep."""
    for number in range(count):
        GrowingRun(root, number).start().train(40).checkpoint().end(State.DONE)
    ids = [f"{number:016x}" for number in range(0, count, 2)]
    SweepManifest("figure9", "nano", ids, description="Which theta?").write(root)


def content_of(uri: str, only: Collection[str] | None = None) -> dict[str, Any]:
    """All that a store says, but for MLflow's own ids and the times of sweeps; or `only` what it
    says under these keys."""
    with open_store(uri) as client:
        experiments = {e.experiment_id: e.name for e in client.search_experiments()}
        runs = list(client.search_runs(list(experiments)))
        name_of = {run.info.run_id: run.data.tags["mlflow.runName"] for run in runs}
        found: dict[str, Any] = {}
        for run in runs:
            tags = dict(run.data.tags)
            if "mlflow.parentRunId" in tags:
                tags["mlflow.parentRunId"] = name_of[tags["mlflow.parentRunId"]]
            tags.pop("spam_lab.synced", None)  # its digest covers MLflow's id of the parent
            what = tags.get("spam_lab.run_id") or tags["spam_lab.sweep"]
            key = f"{experiments[run.info.experiment_id]}/{what}"
            assert key not in found
            if only is not None and key not in only:
                continue
            found[key] = {
                "name": run.info.run_name,
                "status": run.info.status,
                "times": tags["spam_lab.kind"] == "run"
                and (run.info.start_time, run.info.end_time),
                "tags": tags,
                "params": dict(run.data.params),
                "metrics": {
                    name: sorted(
                        (m.step, m.timestamp, repr(m.value))
                        for m in client.get_metric_history(run.info.run_id, name)
                    )
                    for name in sorted(run.data.metrics)
                },
                "artifacts": _artifacts(client, run),
            }
        return found


def _artifacts(client: MlflowClient, run: Run) -> dict[str, str]:
    uri: str = run.info.artifact_uri
    if uri.startswith("file://"):
        folder = Path(uri.removeprefix("file://").replace("%20", " "))
        return {path.name: path.read_text() for path in sorted(folder.glob("*"))}
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    with tempfile.TemporaryDirectory() as copies:  # the server keeps them
        return {
            entry.path: Path(
                client.download_artifacts(run.info.run_id, entry.path, copies)
            ).read_text()
            for entry in client.list_artifacts(run.info.run_id)
        }


def in_a_process(action: Callable[[], object]) -> int:
    """Do `action` in a process of its own (which has MLflow already); its exit status."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def files_of(root: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file of the run directories."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.glob("0*/**/*"))
        if path.is_file()
    }


def local_uri(root: Path) -> str:
    """The store beside the runs."""
    uri = tracking_uri(root)
    assert uri.startswith("sqlite:///")
    return uri
