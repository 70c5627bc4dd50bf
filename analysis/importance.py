"""How much each hyperparameter matters: PED-ANOVA, with an interval from resampled trials.

PED-ANOVA (arXiv 2304.10255, Optuna's) asks which hyperparameters tell the best quarter of the
trials from all of them; shares add up to 1. The interval holds the middle 95 % of the shares of
resamples of the trials. Fewer trials than `LEAST` are said to be too few, instead of a number that
would not last.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis.trials import Record

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

TARGET = 0.25
LEAST = 20
"""Optuna asks for five trials in the best quarter."""
RESAMPLES = 200

METHOD = (
    "PED-ANOVA (Optuna's): which hyperparameters tell the best "
    f"{100 * TARGET:.0f} % of the complete trials from all of them. Shares add up to 1. Intervals "
    f"are the middle 95 % of the shares in {RESAMPLES} resamples of the trials"
)


@dataclass(frozen=True)
class Importance:
    """The share of one hyperparameter, and the middle 95 % of its resampled shares."""

    key: str
    share: float
    low: float
    high: float


def importances(record: Record) -> list[Importance]:
    """Shares of the searched keys, the largest first; empty where there is nothing to tell.

    That is with fewer than `LEAST` complete trials or only one searched key.
    """
    trials = record.complete
    keys = [axis.key for axis in record.axes]
    if len(trials) < LEAST or len(keys) < 2:
        return []
    values = [record.value(trial) for trial in trials]
    sources = [trial.source for trial in trials if trial.source is not None]
    shares = _shares(keys, sources, values)
    draws = np.random.Generator(np.random.PCG64(0))
    resampled = []
    for _ in range(RESAMPLES):
        chosen = draws.integers(len(sources), size=len(sources))
        again = _shares(keys, [sources[i] for i in chosen], [values[i] for i in chosen])
        resampled.append([again[key] for key in keys])
    low, high = np.quantile(np.asarray(resampled), (0.025, 0.975), axis=0)
    found = [
        Importance(key, shares[key], float(low[i]), float(high[i])) for i, key in enumerate(keys)
    ]
    return sorted(found, key=lambda one: (-one.share, one.key))


def why_none(record: Record) -> str:
    """Why there are no importances, in a sentence; empty where there are."""
    count = len(record.complete)
    if len(record.axes) < 2:
        return "One hyperparameter was searched: there is nothing to share importance with."
    if count < LEAST:
        return f"{count} complete trials are too few for importances: they take {LEAST}."
    return ""


def _shares(
    keys: Sequence[str], trials: Sequence[FrozenTrial], values: Sequence[float]
) -> dict[str, float]:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study()
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params=trial.params, distributions=trial.distributions, value=value
                )
                for trial, value in zip(trials, values, strict=True)
            ]
        )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TARGET)
        raw = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    total = sum(raw.values())
    # All values alike: nothing is told apart, and no key is more important than another.
    return {key: raw.get(key, 0.0) / total if total else 1 / len(keys) for key in keys}
