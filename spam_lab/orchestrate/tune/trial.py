"""Answering a trial: its run is trained, or read where it has a result, and Optuna is told of it.

A run that is trained tells its validation loss at every evaluation, and stops, with a checkpoint,
when the pruner says so; asked for again, it goes on from there. A trial whose worker is told to
stop is left running, for whoever comes next.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

from spam_lab.config.schema import SCHEMA_VERSION
from spam_lab.orchestrate.run import Host, execute
from spam_lab.orchestrate.search import LOSS, STATE_BYTES
from spam_lab.orchestrate.stop import StopRequest
from spam_lab.orchestrate.tune.claim import Taken
from spam_lab.orchestrate.tune.ongoing import (
    ASIDE,
    REASON,
    SECONDS,
    WORKER,
    Ongoing,
    list_trials,
)
from spam_lab.orchestrate.tune.progress import DIVERGED
from spam_lab.orchestrate.tune.reports import PruneRequest, ReportingJournal, Reports
from spam_lab.record.metrics import MetricWriter
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, Status

if TYPE_CHECKING:
    from pathlib import Path

    from spam_lab.train.journal import Journal

LOG = logging.getLogger(__name__)


def answer(ongoing: Ongoing, taken: Taken, host: Host, stop: StopRequest) -> bool:
    """Train what is left of the trial's run, and tell Optuna; False where it was stopped before.

    Args:
        ongoing: the study.
        taken: the trial.
        host: how runs are trained here.
        stop: the worker's request to stop.
    """
    directory, request = taken.directory, PruneRequest(outer=stop)
    start = time.monotonic()
    reports = Reports(taken.trial, request) if len(ongoing.definition.objectives) == 1 else None
    if reports is not None:
        reports.read(directory)
    status = directory.status()
    # One that was told to stop and died before it could is only brought to its stop.
    if not status.state.has_ended and not (request.pruned and status.state is State.PREEMPTED):

        def journal(path: Path) -> Journal:
            return MetricWriter(path) if reports is None else ReportingJournal(path, reports)

        execute(directory, host, request, journal=journal)
        status = directory.status()
    if not status.state.has_ended and not request.pruned:
        if stop():
            return False
        _put_aside(ongoing, taken)
        return True
    taken.trial.set_user_attr(SECONDS, time.monotonic() - start)
    _tell(ongoing, taken, status, request.pruned)
    return True


def _put_aside(ongoing: Ongoing, taken: Taken) -> None:
    """Leave a trial whose run somebody else has taken meanwhile."""
    with ongoing.folder.lock():
        now = ongoing.study.get_trials(deepcopy=False)[taken.trial.number]
        if now.user_attrs.get(WORKER) == ongoing.worker:
            taken.trial.set_user_attr(WORKER, ASIDE)


def _tell(ongoing: Ongoing, taken: Taken, status: Status, pruned: bool) -> None:
    from optuna.trial import TrialState

    names = ongoing.definition.objectives
    values: list[float] | None = None
    state, reason = TrialState.FAIL, status.reason
    diverged = status.state is State.DIVERGED
    if status.state is State.DONE:
        values = [_value(taken.directory, name) for name in names]
        diverged = not all(map(math.isfinite, values))
        reason = "its last validation loss is not finite" if diverged else ""
    if diverged:
        values = [math.inf] * len(names) if ongoing.config.diverged == "worst" else None
        taken.trial.set_user_attr(DIVERGED, True)
    elif pruned and not status.state.has_ended:
        state = TrialState.PRUNED
    if reason:
        taken.trial.set_user_attr(REASON, reason)
    state = TrialState.COMPLETE if values is not None else state
    with ongoing.folder.lock():
        ongoing.study.tell(taken.trial.number, values, state, skip_if_finished=True)
        list_trials(ongoing.study, ongoing.folder, ongoing.definition, ongoing.overrides)


def _value(directory: RunDirectory, objective: str) -> float:
    """What a run that is done came to; infinite where it does not say."""
    if objective == STATE_BYTES:
        return float(state_bytes(directory.config_file(SCHEMA_VERSION)["config"]))
    losses = [line.values[LOSS] for line in directory.metrics() if LOSS in line.values]
    return losses[-1] if losses and math.isfinite(losses[-1]) else math.inf


def state_bytes(config: dict[str, Any]) -> int:
    """Bytes of optimizer state, masks included, of the run with this config."""
    from spam_lab.config.compose import from_dict
    from spam_lab.train.memory import run_memory

    return run_memory(from_dict(config)).optimizer
