"""The paper's own setting of what a study searched: where it lies, and what a run of it came to.

The setting is that of the study's definition, at the scale in force. Its run is the one of exactly
that config, the study's seed included; it is looked for among the trials, then among the run
directories. It promises never to take another seed's run, or a neighbour, for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.trials import COMPLETE, Record
from spam_lab.config.compose import groups
from spam_lab.config.fields import ConfigError, walk
from spam_lab.config.identity import run_id
from spam_lab.orchestrate.expand import load_study
from spam_lab.orchestrate.grid import Value
from spam_lab.orchestrate.search import LOSS
from spam_lab.orchestrate.tune.space import trial_config
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory


@dataclass(frozen=True)
class PaperSetting:
    """The paper's setting.

    Attributes:
        point: the searched keys as the paper has them; empty where there is none, with a `reason`.
        run_id: the run of exactly this setting and the study's seed, trained or not.
        source: where a result of it was found; empty where there is none.
        loss: what it came to; NaN where it diverged or was not trained.
        reason: why there is no point, or no loss.
    """

    point: Mapping[str, Any]
    run_id: str = ""
    source: str = ""
    loss: float = math.nan
    reason: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether a run of it ended well."""
        return math.isfinite(self.loss)


def find(record: Record, root: Path) -> PaperSetting:
    """The paper's setting for a study, with its run where there is one."""
    try:
        definition = load_study(record.name)
        if not definition.paper:
            return PaperSetting({}, reason="the study names no setting of the paper")
        config = trial_config(definition, record.overrides, definition.paper)
    except ConfigError as error:
        return PaperSetting({}, reason=f"the paper's setting cannot be composed: {error}")
    values = {key: value for key, _, value in walk(config)}
    chosen = {**definition.fixed, **definition.paper}
    point: dict[str, Value] = {}
    for axis in record.axes:
        value = chosen.get(axis.key) if axis.key in groups() else values.get(axis.key)
        if value is None and not axis.is_conditional:
            return PaperSetting({}, reason=f"the paper's setting says nothing of {axis.key}")
        if axis.key in values or axis.key in groups():
            point[axis.key] = value
    return _with_result(record, root, point, run_id(config))


def _with_result(record: Record, root: Path, point: Mapping[str, Value], run: str) -> PaperSetting:
    for trial in record.trials:
        if trial.run_id == run and trial.outcome == COMPLETE:
            return PaperSetting(point, run, f"trial {trial.number}", record.value(trial))
        if trial.run_id == run and trial.outcome == State.DIVERGED:
            reason = f"trial {trial.number}, which is this setting, diverged"
            return PaperSetting(point, run, f"trial {trial.number}", reason=reason)
    directory = RunDirectory(root, run)
    state = directory.status().state
    if state is State.DIVERGED:
        return PaperSetting(point, run, "its run directory", reason="its run diverged")
    if state is State.DONE and record.objectives[record.target] == LOSS:
        losses = [line.values[LOSS] for line in directory.metrics() if LOSS in line.values]
        if losses and math.isfinite(losses[-1]):
            return PaperSetting(point, run, "its run directory", losses[-1])
    return PaperSetting(point, run, reason="no run of it has ended")
