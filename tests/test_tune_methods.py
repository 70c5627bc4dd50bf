"""Every sampler and pruner by name, on a storage that workers share: inside the space, different
for trials that are asked for at the same time, not repeated by a worker that begins again, and
better than chance where that is promised."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import optuna
import pytest

from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import StudyConfig
from spam_lab.orchestrate.grid import Value
from spam_lab.orchestrate.tune.journal import Journal
from spam_lab.orchestrate.tune.methods import (
    PRUNERS,
    SAMPLERS,
    make_pruner,
    make_sampler,
    most_trials,
    require_method,
)
from spam_lab.orchestrate.tune.space import Dimension, Space

RANGES = Space((Dimension("x", low=1e-3, high=10.0, log=True), Dimension("y", True, False, 0, 40)))
CHOICES = Space((Dimension("x", choices=(0.1, 1.0, 10.0)), Dimension("y", choices=(1, 2))))
MIXED = Space(
    (
        Dimension("kind", choices=("a", "b")),
        Dimension("x", low=1e-3, high=10.0, log=True),
        Dimension("y", True, low=0, high=40, when=(("kind", "a"),)),
        Dimension("z", low=0.0, high=1.0),
    )
)


def objective(point: dict[str, Value]) -> float:
    """Least at x=0.1, y=20."""
    x, y = point.get("x", 1.0), point.get("y", 10)
    assert isinstance(x, int | float) and isinstance(y, int | float)
    return math.log10(x * 10) ** 2 + ((y - 20) / 20) ** 2


class Trials:
    """Trials of one shared journal, each asked for by a worker that opens it anew."""

    def __init__(
        self, folder: Path, space: Space, sampler: str, pruner: str = "none", objectives: int = 1
    ) -> None:
        self._folder, self._space = folder, space
        self._config = StudyConfig(sampler=sampler, pruner=pruner, startup_trials=4, seed=3)
        self._pruner = make_pruner(self._config, steps=27, every=1)
        self._directions = ["minimize"] * objectives

    def open(self) -> optuna.Study:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.create_study(
                study_name="s",
                storage=optuna.storages.JournalStorage(Journal(self._folder / "journal.log")),
                pruner=self._pruner,
                directions=self._directions,
                load_if_exists=True,
            )

    def ask(self, study: optuna.Study) -> tuple[optuna.Trial, dict[str, Value]]:
        number = len(study.get_trials(deepcopy=False))
        study.sampler = make_sampler(self._config, self._space, number)
        trial = study.ask()
        return trial, self._space.suggest(trial)


def require_inside(space: Space, point: dict[str, Value]) -> None:
    for d in space.dimensions:
        assert (d.key in point) == d.applies(point)
        value = point.get(d.key)
        if value is not None and d.choices:
            assert value in d.choices
        elif value is not None:
            assert d.low is not None and d.high is not None and isinstance(value, int | float)
            assert d.low <= value <= d.high and (not d.integer or isinstance(value, int))


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_stays_inside_and_hears_of_every_end(
    tmp_path: Path, sampler: str, objectives: int
) -> None:
    """Complete, infinite, pruned and failed trials, of four workers that ask at the same time."""
    space = CHOICES if sampler == "grid" else RANGES if sampler == "cma_es" else MIXED
    if sampler == "cma_es" and objectives == 2:
        return
    trials = Trials(tmp_path, space, sampler, objectives=objectives)
    number = 0
    for _ in range(4 if sampler != "grid" else 1):
        study = trials.open()
        asked = [trials.ask(study) for _ in range(4)]
        if sampler != "grid":
            assert len({tuple(point.items()) for _, point in asked}) == 4, "nobody is told the same"
        for trial, point in asked:
            require_inside(space, point)
            number += 1
            if number % 5 == 3:
                study.tell(trial, [math.inf] * objectives)
            elif number % 5 == 4 and objectives == 1:
                trial.report(1.0, 1)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            elif number % 7 == 5:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, [objective(point)] * objectives)


@pytest.mark.parametrize("sampler", ["random", "tpe", "quasi_random"])
def test_a_worker_that_begins_again_does_not_repeat_itself(tmp_path: Path, sampler: str) -> None:
    trials = Trials(tmp_path, RANGES, sampler)
    points = [tuple(trials.ask(trials.open())[1].items()) for _ in range(12)]
    assert len(set(points)) == 12


def test_a_study_that_is_repeated_is_the_same(tmp_path: Path) -> None:
    def points(name: str) -> list[dict[str, Value]]:
        (tmp_path / name).mkdir()
        trials = Trials(tmp_path / name, RANGES, "tpe")
        study, found = trials.open(), []
        for _ in range(8):
            trial, point = trials.ask(study)
            study.tell(trial, objective(point))
            found.append(point)
        return found

    assert points("one") == points("two")


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    trials = Trials(tmp_path, CHOICES, "grid")
    found = []
    for _ in range(6):
        study = trials.open()
        trial, point = trials.ask(study)
        study.tell(trial, objective(point))  # Optuna's own grid fails here at the last
        found.append(tuple(point.values()))
    assert sorted(found) == sorted(itertools.product((0.1, 1.0, 10.0), (1, 2)))
    config = StudyConfig(sampler="grid", trials=40)
    assert most_trials(config, CHOICES) == 6
    assert most_trials(StudyConfig(sampler="grid", trials=4), CHOICES) == 4
    assert most_trials(StudyConfig(sampler="random", trials=40), CHOICES) == 40


def test_what_a_sampler_cannot_search_is_refused() -> None:
    with pytest.raises(ConfigError, match="choices for every searched key"):
        require_method(StudyConfig(sampler="grid"), MIXED, ["one"])
    for space, objectives in ((CHOICES, ["one"]), (RANGES, ["one", "two"])):
        with pytest.raises(ConfigError, match="two or more ranges"):
            require_method(StudyConfig(sampler="cma_es"), space, objectives)
    for sampler in SAMPLERS:
        require_method(
            StudyConfig(sampler=sampler), CHOICES if sampler == "grid" else RANGES, ["one"]
        )


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cma_es"])
def test_a_sampler_that_learns_is_better_than_chance(tmp_path: Path, sampler: str) -> None:
    """Asked one after another; its second half is nearer to the least than its first."""
    trials = Trials(tmp_path, RANGES, sampler)
    study, losses = trials.open(), []
    for _ in range(40 if sampler != "gp" else 16):
        trial, point = trials.ask(study)
        losses.append(objective(point))
        study.tell(trial, losses[-1])
    half = len(losses) // 2
    assert sum(losses[half:]) < 0.7 * sum(losses[:half])


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_stops_what_is_hopeless(tmp_path: Path, pruner: str) -> None:
    """Losses grow from trial to trial, so all but the first few are worse than what there is."""
    trials = Trials(tmp_path, RANGES, "random", pruner)
    study, stopped_at = trials.open(), []
    for number in range(30):
        trial, _ = trials.ask(study)
        for step in range(1, 28):
            trial.report(float(number), step)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                stopped_at.append(step)
                break
        else:
            study.tell(trial, float(number))
    assert not stopped_at if pruner == "none" else len(stopped_at) > 8
    assert study.best_value == 0, "the best is never stopped"


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s not in ("grid", "random")])
def test_a_sampler_goes_with_hyperband(tmp_path: Path, sampler: str) -> None:
    """Which shows it a study of each bracket that is not quite a study."""
    trials = Trials(tmp_path, RANGES, sampler, "hyperband")
    study = trials.open()
    for _ in range(10):
        trial, point = trials.ask(study)
        require_inside(RANGES, point)
        trial.report(objective(point), 1)
        study.tell(trial, objective(point))


@pytest.mark.parametrize(("steps", "every"), [(10, 1), (10, 100), (1, 1), (100, 33)])
def test_pruners_take_any_number_of_evaluations(tmp_path: Path, steps: int, every: int) -> None:
    for pruner in PRUNERS:
        made = make_pruner(StudyConfig(pruner=pruner), steps, every)
        study = optuna.create_study(pruner=made)
        trial = study.ask()
        trial.report(1.0, min(every, steps))
        trial.should_prune()
