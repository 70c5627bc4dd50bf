"""A study as one worker takes part in it, and what its trials are marked with.

Trials carry their run and their worker as Optuna's user attributes, so that whoever looks can tell
a trial that somebody works on from one that was lost. The sweep's manifest of the study, which the
record is made from, is written anew from the trials whenever one is taken or told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spam_lab.config.schema import StudyConfig
from spam_lab.orchestrate.lease import heartbeat_age, is_live, lives_by_own_account
from spam_lab.orchestrate.search import Study
from spam_lab.orchestrate.tune.progress import best_in_words, outcome, standing
from spam_lab.orchestrate.tune.space import Space
from spam_lab.orchestrate.tune.storage import StudyFolder
from spam_lab.record.store import SweepManifest

if TYPE_CHECKING:
    import optuna

RUN_ID, WORKER, SECONDS, REASON = "run_id", "worker", "seconds", "reason"
"""Attributes of a trial: its run, who has it, how long it was trained, how it ended if not well."""
PRUNED_AT = "pruned_at"
"""The step at which the pruner said stop: asked again, it would not."""

ASIDE = ""
"""The worker of a trial whose run somebody else trains: it is answered when that run has ended."""

FRESH_SECONDS = 15.0
"""A holder elsewhere is believed to live this long after a heartbeat, without asking SLURM."""


@dataclass(frozen=True)
class Ongoing:
    """A study that a worker takes part in.

    Attributes:
        study: Optuna's.
        folder: where it is kept.
        definition: what is searched.
        space: the same, at the scale in force.
        overrides: what the command line sets in every trial.
        config: how it is searched, and for how many trials.
        worker: this worker's own name.
    """

    study: optuna.Study
    folder: StudyFolder
    definition: Study
    space: Space
    overrides: Sequence[str]
    config: StudyConfig
    worker: str


def worker_lease(folder: StudyFolder, worker: str) -> Path:
    """The lease that a worker of a study holds while it is there."""
    return folder.path / "workers" / worker / "lease.json"


def lives(path: Path) -> bool:
    """Whether the holder of a lease lives; as `is_live`, and cheap to ask of many."""
    here = lives_by_own_account(path)
    if here is not None:
        return here
    age = heartbeat_age(path) if path.exists() else None
    return age is not None and (age < FRESH_SECONDS or is_live(path))


def list_trials(
    study: optuna.Study, folder: StudyFolder, definition: Study, overrides: Sequence[str]
) -> None:
    """Have the record show the runs under the study, with what became of each trial; for whoever
    holds the study's lock."""
    manifest = SweepManifest(
        folder.name,
        folder.scale,
        overrides=list(overrides),
        description=definition.description,
        kind="study",
        best=best_in_words(standing(study)),
    )
    for trial in study.get_trials(deepcopy=False):
        run_id = trial.user_attrs.get(RUN_ID)
        if run_id is not None:  # of several trials of one run, the last is told
            manifest.trials[run_id] = f"{trial.number} {outcome(trial)}"
    manifest.run_ids = list(manifest.trials)
    path = manifest.path(folder.root)
    if not path.exists() or SweepManifest.read(path) != manifest:
        manifest.write(folder.root)
