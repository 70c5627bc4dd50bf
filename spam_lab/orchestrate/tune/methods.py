"""Samplers and pruners by name, as Optuna makes them, with what independent workers need.

What a sampler draws is settled by the study's seed, the trial's number and the trials there are,
not by who asks: workers that ask at the same time are told different points, and one that is
started again does not begin from the start of its random numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import StudyConfig
from spam_lab.orchestrate.tune.space import Space

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

SAMPLERS = ("tpe", "gp", "cma_es", "random", "grid", "quasi_random")
PRUNERS = ("none", "hyperband", "successive_halving", "median")


def require_method(config: StudyConfig, space: Space, objectives: Sequence[str]) -> None:
    """See that the sampler can search this space.

    Raises:
        ConfigError: it cannot; what to take instead.
    """
    numbers = [d for d in space.dimensions if not d.choices and not d.when]
    if config.sampler == "grid" and space.grid() is None:
        raise ConfigError(
            "study.sampler=grid needs choices for every searched key: take tpe or random"
        )
    if config.sampler == "cma_es" and (len(numbers) < 2 or len(objectives) > 1):
        raise ConfigError(
            "study.sampler=cma_es needs one objective, and two or more ranges without a "
            "condition: take tpe or gp"
        )


def most_trials(config: StudyConfig, space: Space) -> int:
    """How many trials there can be: those asked for, or the points of the grid."""
    grid = space.grid() if config.sampler == "grid" else None
    if grid is None:
        return config.trials
    points = 1
    for choices in grid.values():
        points *= len(choices)
    return min(config.trials, points)


def make_sampler(config: StudyConfig, space: Space, number: int) -> BaseSampler:
    """The sampler of `study.sampler` for the trial of this number.

    tpe: multivariate tree-structured Parzen estimator with constant liar. gp: Gaussian process.
    cma_es: for two numbers or more; choices and conditional keys are drawn at random beside it.
    random. grid: every combination of choices once. quasi_random: a Sobol sequence.
    """
    import numpy as np
    from optuna import samplers
    from optuna.exceptions import ExperimentalWarning

    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    aside = samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if config.sampler == "grid":
            return _grid(space, config.seed)
        if config.sampler == "gp":
            return samplers.GPSampler(
                seed=seed,
                independent_sampler=aside,
                n_startup_trials=max(1, config.startup_trials),
                warn_independent_sampling=False,
            )
        if config.sampler == "cma_es":
            return samplers.CmaEsSampler(
                seed=seed, independent_sampler=aside, warn_independent_sampling=False
            )
        if config.sampler == "quasi_random":
            # One sequence for all: its points are numbered by the storage.
            return samplers.QMCSampler(
                seed=config.seed,
                scramble=True,
                independent_sampler=aside,
                warn_independent_sampling=False,
            )
        if config.sampler == "random":
            return aside
        return samplers.TPESampler(
            seed=seed,
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=config.startup_trials,
        )


def _grid(space: Space, seed: int) -> BaseSampler:
    from optuna.samplers import GridSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

    class Grid(GridSampler):
        """Optuna's, which would stop `optimize`, and fails where nobody has called that."""

        def after_trial(
            self,
            study: Study,
            trial: FrozenTrial,
            state: TrialState,
            values: Sequence[float] | None,
        ) -> None:
            """Nothing: how many trials there are is settled when one is taken."""

    grid = space.grid()
    assert grid is not None, "require_method comes first"
    return Grid(grid, seed=seed)


def make_pruner(config: StudyConfig, steps: int, every: int) -> BasePruner:
    """The pruner of `study.pruner` for runs of `steps` steps, evaluated every `every`."""
    from optuna import pruners

    first = min(every, steps)
    if config.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=first, max_resource=steps, reduction_factor=3)
    if config.pruner == "successive_halving":
        return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=3)
    if config.pruner == "median":
        return pruners.MedianPruner(
            n_startup_trials=config.startup_trials, n_warmup_steps=0, interval_steps=1
        )
    return pruners.NopPruner()
