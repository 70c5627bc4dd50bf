"""Spaces of studies: what is refused before anything starts, where ends and types come from, and
that nothing outside of the space is suggested."""

from __future__ import annotations

import itertools
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam_lab.config.compose import compose_run
from spam_lab.config.fields import ConfigError
from spam_lab.orchestrate.expand import load_study, study_names
from spam_lab.orchestrate.search import LOSS, STATE_BYTES, Search
from spam_lab.orchestrate.tune.space import (
    MOST_CORNERS,
    Dimension,
    Space,
    checked_space,
    trial_config,
)
from spam_lab.study_launch import _require_free, trial_overrides
from tests.tuning_lab import definition

THETA = Search("optimizer.theta", 10, 20000, log=True)
METHOD = Search("optimizer", choices=("spam", "adam"))
BARE: dict[str, Any] = {"fixed": {"model": "llama_60m"}}


@pytest.mark.parametrize(
    ("search", "told"),
    [
        (Search("optimizer.thetta", 1, 2), "there is no such key"),
        (Search("optimizer.theta", 20, 10), "from 20 to 10 is no range"),
        (Search("optimizer.theta", -5, 10), "from -5 to 10 is no range"),
        (Search("optimizer.theta"), "has no high: the schema allows"),
        (Search("optimizer.delta_t", 5.5, 50), "it takes whole numbers"),
        (Search("optimizer.weight_decay", 0, 0.1, log=True), "a logarithmic scale begins above 0"),
        (Search("optimizer.theta", "${scaled:nothing,5}", 10), "no published value"),
        (Search("optimizer.theta", 10, 20, choices=(1.0,)), "choices and a range"),
        (Search("optimizer.beta1", 0.5, 1.0), "is no range"),
        (Search("data.source", 1, 2), "is no number: a study names the choices"),
        (Search("stabilizer"), "is a group: a study names the choices"),
        (Search("seed", 0, 9), "tells no two settings apart"),
        (Search("train.log_every", 1, 9), "tells no two settings apart"),
        (Search("model", choices=("llama_60m",)), "sets model twice"),
        (Search("data.source", choices=("embedded", "nowhere")), "could suggest data.source"),
        (Search("optimizer.theta", 1, 9, when={"optimizer": "spam"}), "which is not before it"),
    ],
)
def test_what_cannot_be_searched_is_refused(search: Search, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        checked_space(definition(search), [])


def test_keys_twice_and_conditions_that_never_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sets optimizer\.theta twice"):
        checked_space(definition(THETA, THETA), [])
    lr = Search("optimizer.lr", 1e-4, 1e-2, when={"optimizer": "soap"})
    with pytest.raises(ConfigError, match="depends on optimizer=soap, which is spam, adam"):
        checked_space(definition(METHOD, lr, **BARE), [])
    lr = Search("optimizer.lr", 1e-4, 1e-2, when={"optimizer.theta": 10})
    with pytest.raises(ConfigError, match="which is a range"):
        checked_space(definition(THETA, lr), [])
    with pytest.raises(ConfigError, match="fixes seed"):
        checked_space(definition(THETA, fixed={"seed": 1}), [])
    with pytest.raises(ConfigError, match=r"could suggest optimizer=adam optimizer\.theta=10"):
        checked_space(definition(METHOD, THETA, **BARE), [])


@pytest.mark.parametrize("objectives", [(), ("speed",), (LOSS, LOSS)])
def test_objectives_are_those_there_are(objectives: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="minimises"):
        checked_space(definition(objectives=objectives), [])
    checked_space(definition(objectives=(LOSS, STATE_BYTES)), [])


def test_a_key_that_the_study_sets_is_not_the_command_lines() -> None:
    for override in ("optimizer.theta=5", "model=llama_130m", "seed=3"):
        with pytest.raises(ConfigError, match="leave it out"):
            _require_free(definition(), [override])
    given_ = ["study=tiny", "study.trials=4", "cluster=slurm", "cluster.cpus=2", "paths.runs=x"]
    assert trial_overrides([*given_, "schedule.steps=9"]) == ["schedule.steps=9"]


def test_types_and_missing_ends_come_from_the_schema() -> None:
    space = checked_space(
        definition(
            THETA,
            Search("optimizer.delta_t", 5, 50, log=True),
            Search("optimizer.beta2", 0.9, 0.999),
            Search("optimizer.weight_decay", high=0.1),
        ),
        [],
    )
    theta, delta_t, beta2, decay = space.dimensions
    assert (theta.integer, delta_t.integer, beta2.integer) == (False, True, False)
    assert (theta.log, delta_t.log, beta2.log) == (True, True, False)
    assert (decay.low, decay.high) == (0, 0.1), "the schema's own lower end"
    assert set(map(type, delta_t.ends())) == {int}


@pytest.mark.parametrize("scale", ["nano", "small", "paper"])
def test_interpolated_ends_are_those_of_the_scale(scale: str) -> None:
    """Every study of the project can be begun at every scale, the paper's own setting inside."""
    for name in study_names():
        study = load_study(name)
        space = checked_space(study, [f"scale={scale}"])
        paper = trial_config(study, [f"scale={scale}"], study.paper)
        for dimension in space.dimensions:
            if dimension.low is None or dimension.high is None:
                continue
            value: Any = paper
            for key in dimension.key.split("."):
                value = getattr(value, key)
            assert dimension.low <= value <= dimension.high


def test_an_interpolation_is_what_the_command_line_would_make_of_it() -> None:
    search = Search("optimizer.delta_t", "${scaled:interval,50}", "${scaled:interval,2500}")
    for scale in ("nano", "paper"):
        (found,) = checked_space(definition(search), [f"scale={scale}"]).dimensions
        for end, paper in ((found.low, 50), (found.high, 2500)):
            text = f"optimizer.delta_t=${{scaled:interval,{paper}}}"
            config: Any = compose_run([f"scale={scale}", "optimizer=spam", text])
            assert end == config.optimizer.delta_t


def test_conditional_keys_are_suggested_where_they_apply() -> None:
    study = definition(
        METHOD,
        Search("optimizer.theta", 10, 20000, log=True, when={"optimizer": "spam"}),
        Search("optimizer.lr", 1e-4, 1e-2, log=True),
        **BARE,
    )
    space = checked_space(study, [])
    assert [sorted(c) for c in space.corners()].count(["optimizer", "optimizer.lr"]) == 2
    assert len(space.corners()) == 6, "spam has two more ends, adam the same corner once"
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [space.suggest(asked.ask()) for _ in range(20)]
    assert {p["optimizer"] for p in points} == {"spam", "adam"}
    assert all(("optimizer.theta" in p) == (p["optimizer"] == "spam") for p in points)
    for point in points:
        assert trial_config(study, [], point).optimizer.name == point["optimizer"]


DIMENSIONS = st.builds(
    lambda number, kind, low, width: (
        Dimension(f"k{number}", choices=tuple(range(low, low + width)))
        if kind == "choices"
        else Dimension(f"k{number}", kind != "float", kind == "log", low, low + width)
    ),
    st.integers(0, 10**9),
    st.sampled_from(("choices", "float", "int", "log")),
    st.integers(1, 50),
    st.integers(1, 9),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(DIMENSIONS, min_size=1, max_size=12, unique_by=lambda d: d.key), st.integers(0, 99))
def test_every_end_is_a_corner_and_every_suggestion_is_inside(
    dimensions: list[Dimension], seed: int
) -> None:
    """However large the space is, its corners are few, and each end of each dimension occurs."""
    space = Space(tuple(dimensions))
    corners = space.corners()
    assert len(corners) <= MOST_CORNERS + 2 * sum(len(d.ends()) for d in dimensions)
    for dimension in dimensions:
        assert {corner[dimension.key] for corner in corners} == set(dimension.ends())
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    point: dict[str, Any] = space.suggest(asked.ask())
    for d in dimensions:
        value = point[d.key]
        assert value in d.choices if d.choices else d.low <= value <= d.high
        assert not d.integer or isinstance(value, int)


def test_corners_of_a_small_space_are_all_there_are() -> None:
    dimensions = [Dimension(f"k{i}", choices=tuple(range(i + 2))) for i in range(3)]
    found = [tuple(corner.values()) for corner in Space(tuple(dimensions)).corners()]
    assert found == list(itertools.product(range(2), range(3), range(4)))


@pytest.mark.parametrize(
    ("dimension", "ends", "inside"),
    [
        (Dimension("a", choices=(3, 0.5, 7)), (0.5, 7), 3),
        (Dimension("b", integer=True, low=5.0, high=50.0), (5, 50), 6),
        (Dimension("c", choices=("x", "y")), (), "x"),
        (Dimension("d", choices=(1,)), (), 1),
    ],
)
def test_the_best_at_an_end_is_seen(
    dimension: Dimension, ends: tuple[float, ...], inside: object
) -> None:
    assert all(dimension.is_at_end(end) for end in ends)
    assert not dimension.is_at_end(inside)  # type: ignore[arg-type]
