"""How far a study is: its trials by state, the best one, and settings to hand on. It promises to
write nothing."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


DIVERGED = "diverged"
"""Attribute of a trial whose run diverged, whatever the sampler was told of it."""

_OUTCOMES = {"FAIL": "failed"}


def outcome(trial: FrozenTrial) -> str:
    """What became of a trial: complete, diverged, pruned, failed, running or waiting."""
    if trial.user_attrs.get(DIVERGED):
        return "diverged"
    return _OUTCOMES.get(trial.state.name, trial.state.name.lower())


def best_in_words(standing: Standing) -> str:
    """The best value and its trial, or the trials of the Pareto front; empty before any."""
    if not standing.best:
        return ""
    if len(standing.best[0].values) == 1:
        return f"{standing.best[0].values[0]:.4f} in trial {standing.best[0].number}"
    front = ", ".join(str(trial.number) for trial in standing.best)
    return f"Pareto front: trials {front}"


@dataclass(frozen=True)
class Standing:
    """A study at one moment. `best` is its best trial, or its Pareto front; empty before any."""

    states: Counter[str]
    diverged: int
    best: tuple[FrozenTrial, ...]

    @property
    def answered(self) -> int:
        """Trials that have ended, in whatever way."""
        return sum(n for state, n in self.states.items() if state not in ("running", "waiting"))


def standing(study: optuna.Study) -> Standing:
    """How the study stands."""
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name.lower() for trial in trials)
    done = [t for t in trials if t.state.name == "COMPLETE"]
    diverged = sum(not all(map(math.isfinite, t.values)) for t in done)
    best: Sequence[FrozenTrial] = ()
    if len(done) > diverged:
        best = study.best_trials if len(study.directions) > 1 else [study.best_trial]
    return Standing(states, diverged, tuple(best))


def winners(
    trials: Sequence[FrozenTrial], by: str, fixed: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The best setting found, or with `by` that of each value of this key, as overrides.

    Returns:
        Entries {"where": overrides that pick the runs meant, "set": overrides for them, "value":
        the loss, "trials": how many were complete}, in the order in which `by` was first seen.
    """
    groups: dict[Any, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        if trial.state.name == "COMPLETE" and math.isfinite(trial.values[0]):
            groups[trial.params.get(by) if by else None].append(trial)
    found = []
    for alike in groups.values():
        best = min(alike, key=lambda trial: (trial.values[0], trial.number))
        where = {key: v for key, v in fixed.items() if key in ("model", "optimizer")}
        # What was found for one model says nothing of another, searched or not.
        where |= {key: v for key, v in best.params.items() if key in (by, "model")}
        settings = {key: v for key, v in best.params.items() if key not in where}
        entry = {"where": where, "set": settings, "value": best.values[0], "trials": len(alike)}
        found.append(entry)
    return found
