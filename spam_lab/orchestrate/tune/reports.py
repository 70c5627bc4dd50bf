"""What a trial is told while its run is trained: validation losses, and the pruner's word on them.

Each step is told once, whoever trains it. A storage that is away costs the run nothing: what could
not be told is told at the next evaluation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spam_lab.orchestrate.search import LOSS
from spam_lab.orchestrate.stop import PRUNED, StopRequest
from spam_lab.orchestrate.tune.ongoing import PRUNED_AT
from spam_lab.record.metrics import MetricWriter
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory

if TYPE_CHECKING:
    from optuna.trial import Trial

LOG = logging.getLogger(__name__)


@dataclass
class PruneRequest(StopRequest):
    """A worker's request to stop, and besides the pruner's for this one trial."""

    outer: StopRequest | None = None
    pruned: bool = False

    def __call__(self) -> bool:
        """Whether to stop at the next step."""
        return self.pruned or (self.outer is not None and self.outer())

    @property
    def state(self) -> State:
        """What the run goes to."""
        return State.PREEMPTED if self.pruned or self.outer is None else self.outer.state

    @property
    def why(self) -> str:
        """How its reason begins."""
        return PRUNED if self.pruned or self.outer is None else self.outer.why


class Reports:
    """The reports of one trial. `request` hears what the pruner says."""

    def __init__(self, trial: Trial, request: PruneRequest) -> None:
        self._trial, self._request = trial, request
        known = trial.study.get_trials(deepcopy=False)[trial.number]
        self._told = set(known.intermediate_values)
        self._waiting: dict[int, float] = {}
        request.pruned |= PRUNED_AT in trial.user_attrs

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take what was measured at a step; ask the pruner where it is an evaluation."""
        if not math.isfinite(values.get(LOSS, math.nan)):
            return
        self._waiting[step] = values[LOSS]
        try:
            self._tell()
            if self._trial.should_prune():
                self._request.pruned = True
                self._trial.set_user_attr(PRUNED_AT, step)
        except Exception as error:  # whatever a database may say
            LOG.warning("trial %d cannot be told of step %d: %s", self._trial.number, step, error)

    def read(self, directory: RunDirectory) -> None:
        """Tell what the run has measured before, without asking the pruner."""
        for line in directory.metrics():
            if math.isfinite(line.values.get(LOSS, math.nan)):
                self._waiting[line.step] = line.values[LOSS]
        self._tell()

    def _tell(self) -> None:
        for step in sorted(self._waiting):
            if step not in self._told:
                self._trial.report(self._waiting[step], step)
                self._told.add(step)
        self._waiting.clear()


class ReportingJournal:
    """A run's metric log that tells a trial of every evaluation."""

    def __init__(self, path: Path, reports: Reports) -> None:
        self._writer, self._reports = MetricWriter(path), reports

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step."""
        self._writer.add(step, values)
        self._reports.add(step, values)

    def flush(self, durable: bool = False) -> None:
        """Write what was taken."""
        self._writer.flush(durable)
