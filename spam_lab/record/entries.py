"""What the record should say about a run and about a sweep: names, tags, params, times and status,
computed from run directories alone.

It promises to be pure (nothing is written, MLflow is not imported), so that what a sync would write
can be read and tested without a store. Curves are `points`; writing is `tracking`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spam_lab.config.labels import flatten, run_labels
from spam_lab.config.schema import PRETRAINING
from spam_lab.files import dump_json
from spam_lab.record.notes import NOTE, run_note
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, Status, SweepManifest
from spam_lab.record.text_dataset import TextDataset

PREFIX = "spam_lab."
"""Every tag of ours begins with this, but for those that MLflow's UI shows by its own names."""

EXPERIMENT = "spam_lab "
"""What the name of a scale's experiment begins with."""

KIND, RUN_ID, SWEEP = f"{PREFIX}kind", f"{PREFIX}run_id", f"{PREFIX}sweep"
ATTEMPTS = f"{PREFIX}attempts"
TRIAL, TRIAL_STATE = f"{PREFIX}trial", f"{PREFIX}trial_state"
KINDS_OF_SWEEP = ("sweep", "study")
PRUNED = "pruned"
NAME = "mlflow.runName"
PARENT, COMMIT = "mlflow.parentRunId", "mlflow.source.git.commit"

_MLFLOW_STATUS = {
    State.PLANNED: "RUNNING",
    State.SUBMITTED: "RUNNING",
    State.RUNNING: "RUNNING",
    State.DONE: "FINISHED",
    State.DIVERGED: "FINISHED",  # a divergence is a result
    State.FAILED: "FAILED",
    State.PREEMPTED: "KILLED",
    State.TIMED_OUT: "KILLED",
}
_PARAMS_LEFT_OUT = ("paths", "cluster", "train", "sweep", "dry_run")
_TEXT_LIMIT = 5000  # MLflow refuses tags of more than 8,000 bytes


@dataclass(frozen=True)
class RunSource:
    """What one run directory says, read once."""

    directory: RunDirectory
    cell_id: str
    config: dict[str, Any]
    status: Status
    provenance: list[dict[str, Any]]
    created_ms: int
    pruned: bool = False
    """Whether a study stopped it: nothing has happened to it, and nobody will go on with it."""

    @classmethod
    def read(cls, directory: RunDirectory) -> RunSource:
        """Read a run directory, but for its metrics.

        Raises:
            StoreError, ValueError, LookupError: a file that cannot be understood.
        """
        content = directory.config_file()
        source = cls(
            directory=directory,
            cell_id=content["cell_id"],
            config=content["config"],
            status=directory.status(),
            provenance=directory.provenance(),
            created_ms=(directory.path / "config.json").stat().st_mtime_ns // 1_000_000,
        )
        _ = source.scale, source.label  # refuse here what names need later
        return source

    @property
    def run_id(self) -> str:
        """The run's own id, not MLflow's."""
        return self.directory.run_id

    @property
    def scale(self) -> str:
        """Name of the scale, which picks the experiment."""
        return str(self.config["scale"]["name"])

    @property
    def label(self) -> str:
        """Method and model."""
        return f"{self.config['optimizer']['name']} {self.config['model']['name']}"

    @property
    def mlflow_status(self) -> str:
        """Status in MLflow's words; the exact state is a tag."""
        return "FINISHED" if self.is_pruned else _MLFLOW_STATUS[self.status.state]

    @property
    def is_pruned(self) -> bool:
        """Whether a study has stopped it and nobody went on with it since."""
        return self.pruned and self.status.state is State.PREEMPTED

    def tags(
        self, name: str, sweeps: Sequence[SweepManifest], parent: str | None
    ) -> dict[str, str]:
        """Every tag of the run; `parent` is MLflow's id of its first sweep."""
        status = self.status
        trials = {sweep.name: sweep.trial(self.run_id) for sweep in sweeps if sweep.trials}
        tags = {
            NAME: name,
            NOTE: run_note(self.directory, status, [sweep.name for sweep in sweeps]),
            KIND: "run",
            RUN_ID: self.run_id,
            f"{PREFIX}cell_id": self.cell_id,
            f"{PREFIX}state": status.state.value,
            ATTEMPTS: str(len(self.provenance)),  # so that it tells when that file has changed
            **{f"{SWEEP}.{sweep.name}": "true" for sweep in sweeps},
            **{f"{TRIAL}.{study}": number for study, (number, _) in trials.items()},
            **{f"{TRIAL_STATE}.{study}": outcome for study, (_, outcome) in trials.items()},
        }
        last = self.provenance[-1] if self.provenance else {}
        optional = {
            PARENT: parent,
            COMMIT: last.get("git_commit"),
            f"{PREFIX}git_dirty": _text(last["git_dirty"]) if "git_dirty" in last else None,
            f"{PREFIX}host": status.host,
            f"{PREFIX}reason": status.reason[:_TEXT_LIMIT],
        }
        return tags | {key: str(value) for key, value in optional.items() if value}

    def dataset(self) -> TextDataset | None:
        """What it is trained on; None where its config does not say."""
        task = self.config.get("task", {})
        if task.get("name", PRETRAINING) != PRETRAINING:
            return TextDataset.of_task(task)
        return TextDataset.of(self.config["data"]) if "data" in self.config else None

    def params(self) -> dict[str, str]:
        """The config by dotted keys, without what does not change the run's numbers."""
        kept = {key: value for key, value in self.config.items() if key not in _PARAMS_LEFT_OUT}
        kept["scale"] = {"name": self.scale}
        return {key: _text(value) for key, value in flatten(kept).items()}


def experiment_name(scale: str) -> str:
    """The MLflow experiment of a scale."""
    return f"{EXPERIMENT}{scale}"


def run_names(
    sources: Mapping[str, RunSource], manifests: Iterable[SweepManifest]
) -> dict[str, str]:
    """A readable name for each run: what is unusual about it in its first sweep."""
    names: dict[str, str] = {}
    alone = [[run_id] for run_id in sources]
    for run_ids in [*(manifest.run_ids for manifest in manifests), *alone]:
        present = [run_id for run_id in run_ids if run_id in sources]
        labels = run_labels([sources[run_id].config for run_id in present])
        for run_id, label in zip(present, labels, strict=True):
            names.setdefault(run_id, label)
    return names


def pruned_runs(manifests: Iterable[SweepManifest]) -> set[str]:
    """The runs that a study has stopped."""
    return {
        run_id
        for manifest in manifests
        for run_id in manifest.trials
        if manifest.trial(run_id)[1] == PRUNED
    }


def sweep_tags(
    manifest: SweepManifest, sources: Mapping[str, RunSource]
) -> tuple[dict[str, str], str]:
    """The tags of the parent run of a sweep or study, and its status: FINISHED once all its runs
    are results, or are pruned."""
    states = [_state(run_id, manifest, sources) for run_id in manifest.run_ids]
    counts, order = Counter(states), [*State, PRUNED]
    lines = [
        manifest.description,
        ", ".join([f"**{len(states)} runs**", *(f"{counts[s]} {s}" for s in order if counts[s])]),
        f"Its runs, shared ones included: ``tags.`{SWEEP}.{manifest.name}` = 'true'``",
    ]
    if manifest.kind == "study":
        best = f", best: **{manifest.best}**" if manifest.best else ""
        lines.insert(1, f"A study of {len(manifest.trials)} trials{best}")
    if manifest.overrides:
        lines.append(f"Overrides: `{' '.join(manifest.overrides)}`")
    tags = {
        NAME: manifest.name,
        KIND: manifest.kind,
        SWEEP: manifest.name,
        NOTE: "\n\n".join(line for line in lines if line)[:_TEXT_LIMIT],
    }
    ended = all(state == PRUNED or State(state).is_result for state in states)
    return tags, "FINISHED" if ended else "RUNNING"


def _state(run_id: str, manifest: SweepManifest, sources: Mapping[str, RunSource]) -> str:
    """The state of one of a sweep's runs, or that its study has pruned it."""
    state = sources[run_id].status.state if run_id in sources else State.PLANNED
    pruned = state is State.PREEMPTED and manifest.trial(run_id)[1] == PRUNED
    return PRUNED if pruned else state


def entry_digest(tags: Mapping[str, str], updated_ms: int) -> str:
    """A short digest that changes whenever a run must be recorded again."""
    content = dump_json([sorted(tags.items()), updated_ms])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _text(value: Any) -> str:
    """JSON's words for null and booleans, repr for floats, a string as it is."""
    if isinstance(value, float):
        return repr(value)
    return value if isinstance(value, str) else dump_json(value)
