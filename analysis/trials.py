"""The trials of a study as plain values, read from where Optuna keeps them.

Nothing is written, and no study is made by looking for one. A trial has a value only where its run
ended well: one that diverged has none (never an infinity that could be averaged), and one that was
pruned has the loss at which it was stopped, which is of an earlier step and compared with nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.frames import FrameError
from spam_lab.config.schema import StudyConfig
from spam_lab.orchestrate.grid import Value
from spam_lab.orchestrate.search import LOSS
from spam_lab.orchestrate.tune.progress import DIVERGED, outcome
from spam_lab.orchestrate.tune.storage import FOLDER, StudyFolder, open_storage

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

COMPLETE = "complete"
WIDE = 4.0
"""Choices of a number that span this factor are shown on a logarithmic axis."""


@dataclass(frozen=True)
class Axis:
    """One searched key. `choices` are its values where it is no range."""

    key: str
    is_number: bool
    log: bool = False
    low: float = 0.0
    high: float = 1.0
    choices: tuple[Value, ...] = ()
    is_conditional: bool = False

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Axis:
        """The axis of a dimension in study.json."""
        key, choices = content["key"], tuple(content["choices"])
        conditional = bool(content["when"])
        if not choices:
            low, high = float(content["low"]), float(content["high"])
            return cls(key, True, bool(content["log"]), low, high, (), conditional)
        numbers = [v for v in choices if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) < len(choices) or len(set(numbers)) < 2:
            return cls(key, False, choices=choices, is_conditional=conditional)
        low, high = float(min(numbers)), float(max(numbers))
        log = low > 0 and high / low >= WIDE
        return cls(key, True, log, low, high, tuple(sorted(numbers)), conditional)

    def place(self, value: Value) -> float:
        """Where a number lies on the axis, from 0 to 1."""
        assert isinstance(value, int | float)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def is_end(self, value: Value) -> bool:
        """Whether a number is the axis's first or last, or within a hundredth of it."""
        if not self.is_number:
            return False
        if self.choices:
            return value in (self.choices[0], self.choices[-1])
        return not 0.01 < self.place(value) < 0.99


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: Optuna's.
        outcome: complete, diverged, pruned, failed, running or waiting.
        values: by objective; empty unless complete.
        point: the searched keys with their values.
        run_id: the run it trained; empty where it did not come to that.
        ended: seconds in which the study was at work until it ended; NaN while it has not.
        stopped_at: the step and loss at which it was pruned.
        reason: why it did not end well.
        source: as Optuna has it.
    """

    number: int
    outcome: str
    values: tuple[float, ...] = ()
    point: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""
    ended: float = math.nan
    stopped_at: tuple[int, float] | None = None
    reason: str = ""
    source: FrozenTrial | None = None


@dataclass(frozen=True)
class Record:
    """A study with its trials, in the order in which they were begun."""

    name: str
    scale: str
    description: str
    seed: int
    objectives: tuple[str, ...]
    axes: tuple[Axis, ...]
    overrides: tuple[str, ...]
    winners_by: str
    trials: tuple[Trial, ...]

    @property
    def target(self) -> int:
        """The place of the loss among the objectives."""
        return self.objectives.index(LOSS) if LOSS in self.objectives else 0

    @property
    def complete(self) -> list[Trial]:
        """Trials with a value."""
        return [trial for trial in self.trials if trial.outcome == COMPLETE]

    @property
    def counts(self) -> Counter[str]:
        """How many trials there are of each outcome."""
        return Counter(trial.outcome for trial in self.trials)

    def value(self, trial: Trial) -> float:
        """The loss of a complete trial."""
        return trial.values[self.target]

    def ranked(self) -> list[Trial]:
        """Complete trials, the lowest loss first."""
        return sorted(self.complete, key=lambda trial: (self.value(trial), trial.number))


def study_names(root: Path, scale: str) -> list[str]:
    """The studies begun under `root` at a scale."""
    folders = (root / FOLDER).glob(f"*.{scale}/study.json")
    return sorted(path.parent.name.removesuffix(f".{scale}") for path in folders)


def read(root: Path, name: str, scale: str) -> Record:
    """The study `name` with all its trials.

    Raises:
        ConfigError: it was not begun, or its database cannot be reached.
        FrameError: it has no trial yet.
    """
    folder = StudyFolder(root, name, scale)
    content = folder.content()
    axes = tuple(Axis.of(entry) for entry in content["space"].values())
    return Record(
        name=name,
        scale=scale,
        description=content["description"],
        seed=content["seed"],
        objectives=tuple(content["objectives"]),
        axes=axes,
        overrides=tuple(content["overrides"]),
        winners_by=content["winners_by"],
        trials=tuple(_trials(_optunas(folder, content))),
    )


def _optunas(folder: StudyFolder, content: Mapping[str, Any]) -> list[FrozenTrial]:
    import optuna

    empty = FrameError(
        f"the study {folder.title} has no trial yet: python launch.py study={folder.name}"
    )
    config = StudyConfig(name=folder.name, storage=content["storage"])
    if config.storage == "journal" and not (folder.path / "journal.log").exists():
        raise empty  # to open it would create it
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(folder, config)
    try:
        study = optuna.load_study(study_name=content["optuna_name"], storage=storage)
    except KeyError:
        raise empty from None
    found = study.get_trials(deepcopy=False)
    if not found:
        raise empty
    return found


def _trials(found: Sequence[FrozenTrial]) -> list[Trial]:
    spans = [
        (t.datetime_start.timestamp(), t.datetime_complete.timestamp())
        for t in found
        if t.datetime_start is not None and t.datetime_complete is not None
    ]
    return [_trial(trial, spans) for trial in found]


def _trial(found: FrozenTrial, spans: Sequence[tuple[float, float]]) -> Trial:
    became = outcome(found)
    values = tuple(found.values) if became == COMPLETE else ()
    if not all(map(math.isfinite, values)):
        became, values = DIVERGED, ()
    stopped_at = None
    if became == "pruned" and found.last_step is not None:
        stopped_at = (found.last_step, found.intermediate_values[found.last_step])
    ended = math.nan
    if found.datetime_complete is not None:
        ended = seconds_at_work(spans, found.datetime_complete.timestamp())
    return Trial(
        number=found.number,
        outcome=became,
        values=values,
        point=dict(found.params),
        run_id=str(found.user_attrs.get("run_id", "")),
        ended=ended,
        stopped_at=stopped_at,
        reason=str(found.user_attrs.get("reason", "")),
        source=found,
    )


def seconds_at_work(spans: Sequence[tuple[float, float]], until: float) -> float:
    """Seconds up to `until` in which at least one trial was being answered: the nights between two
    days of a study do not count."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        begin, end = max(begin, reached), min(end, until)
        if end > begin:
            total += end - begin
            reached = end
    return total
