"""Taking a trial: a lost one first, else a new one, so that a free worker always has one.

Under the study's lock, so that the number of trials is exact. A trial of which nobody is left, of
its worker or of whoever trains its run, goes on with whoever comes next, from wherever its worker
was killed: the point that it was told so far is kept. A point whose run somebody else trains is put
aside, and answered when that run has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import SCHEMA_VERSION, RunConfig
from spam_lab.orchestrate.expand import request_of
from spam_lab.orchestrate.tune.methods import make_sampler, most_trials
from spam_lab.orchestrate.tune.ongoing import (
    ASIDE,
    REASON,
    RUN_ID,
    WORKER,
    Ongoing,
    list_trials,
    lives,
    worker_lease,
)
from spam_lab.orchestrate.tune.space import trial_config
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Taken:
    """A trial that this worker has."""

    trial: Trial
    directory: RunDirectory


def take(ongoing: Ongoing) -> Taken | None:
    """A trial to work on; None where all that there may be are taken."""
    with ongoing.folder.lock():
        taken = _lost(ongoing) or _new(ongoing)
        list_trials(ongoing.study, ongoing.folder, ongoing.definition, ongoing.overrides)
        return taken


def is_waited_for(ongoing: Ongoing) -> bool:
    """Whether a trial was put aside: it will have to be taken once its run has ended."""
    return any(known.user_attrs.get(WORKER) == ASIDE for known in _running(ongoing))


def _running(ongoing: Ongoing) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return ongoing.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _lost(ongoing: Ongoing) -> Taken | None:
    """A trial that nobody works on."""
    from optuna.trial import Trial

    running = _running(ongoing)
    attended = _attended(ongoing, running)
    for known in running:
        run_id = known.user_attrs.get(RUN_ID)
        if known.number in attended or run_id in attended.values():
            continue
        if run_id is not None and lives(RunDirectory(ongoing.folder.root, run_id).lease_path):
            continue
        LOG.info("trial %d goes on", known.number)
        ongoing.study.sampler = make_sampler(ongoing.config, ongoing.space, known.number)
        trial = Trial(ongoing.study, known._trial_id)
        if run_id is None:  # its worker died before it knew what to train
            taken = _begin(ongoing, trial, running)
            if taken is not None:
                return taken
            continue
        trial.set_user_attr(WORKER, ongoing.worker)
        return Taken(trial, RunDirectory(ongoing.folder.root, run_id))
    return None


def _new(ongoing: Ongoing) -> Taken | None:
    """A trial with a point that is suggested now."""
    most = most_trials(ongoing.config, ongoing.space)
    while True:
        trials = ongoing.study.get_trials(deepcopy=False)
        begun = sum(trial.state.name != "WAITING" for trial in trials)
        if begun >= most:
            return None
        ongoing.study.sampler = make_sampler(ongoing.config, ongoing.space, begun)
        taken = _begin(ongoing, ongoing.study.ask(), _running(ongoing))
        if taken is not None:
            return taken


def _begin(ongoing: Ongoing, trial: Trial, running: Sequence[FrozenTrial]) -> Taken | None:
    """Settle what a trial trains; None where there is nothing to do for this worker."""
    from optuna.trial import TrialState

    trial.set_user_attr(WORKER, ongoing.worker)
    point = ongoing.space.suggest(trial)
    try:
        config = trial_config(ongoing.definition, ongoing.overrides, point)
    except ConfigError as error:  # inside of corners that are all allowed
        LOG.warning("trial %d is refused: %s", trial.number, error)
        trial.set_user_attr(REASON, str(error))
        ongoing.study.tell(trial.number, state=TrialState.FAIL)
        return None
    directory = _create(ongoing.folder.root, config)
    trial.set_user_attr(RUN_ID, directory.run_id)
    others = _attended(ongoing, [known for known in running if known.number != trial.number])
    if directory.run_id in others.values() or lives(directory.lease_path):
        trial.set_user_attr(WORKER, ASIDE)
        return None
    return Taken(trial, directory)


def _attended(ongoing: Ongoing, running: Sequence[FrozenTrial]) -> dict[int, str | None]:
    """The trials whose worker is there, with their runs."""
    found = {}
    for known in running:
        worker = known.user_attrs.get(WORKER, ASIDE)
        if worker != ASIDE and lives(worker_lease(ongoing.folder, worker)):
            found[known.number] = known.user_attrs.get(RUN_ID)
    return found


def _create(root: Path, config: RunConfig) -> RunDirectory:
    request = request_of(config)
    directory = RunDirectory(root, request.run_id)
    directory.create(request.cell_id, SCHEMA_VERSION, asdict(config))
    if directory.status().state in (State.PLANNED, State.FAILED):
        directory.move(State.SUBMITTED, steps=config.schedule.steps)
    return directory
