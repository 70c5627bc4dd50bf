"""The space of a study, checked against the typed schema, and suggestions from it.

Ends of ranges are resolved at the scale in force; types, and ends that are not given, come from the
schema's own declaration of the key. It promises that every corner of the space composes to a run
that may be trained, before anything starts.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spam_lab.config.compose import compose_command, compose_run, groups
from spam_lab.config.fields import ConfigError, Interval, walk
from spam_lab.config.identity import EXCLUDED, SEEDS
from spam_lab.config.schema import RunConfig
from spam_lab.orchestrate.grid import Value
from spam_lab.orchestrate.search import OBJECTIVES, Search, Study

if TYPE_CHECKING:
    from optuna.trial import Trial

MOST_CORNERS = 256
"""Corners of a space that are composed; of a larger one, about as many that have every end."""


@dataclass(frozen=True)
class Dimension:
    """One searched key at the scale in force.

    Attributes:
        key, log, when: as in `Search`.
        integer: whether only whole numbers count.
        low, high: the ends, both included; None where there are `choices`.
        choices: the values to choose from; empty for a range.
    """

    key: str
    integer: bool = False
    log: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] = ()
    when: tuple[tuple[str, Value], ...] = ()

    def applies(self, known: Mapping[str, Value]) -> bool:
        """Whether the key is searched where the keys before it have these values."""
        return all(known.get(key) == value for key, value in self.when)

    def suggest(self, trial: Trial) -> Value:
        """A value for this trial."""
        if self.choices:
            value: Value = trial.suggest_categorical(self.key, self.choices)
            return value
        assert self.low is not None and self.high is not None
        if self.integer:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def ends(self) -> Sequence[Value]:
        """The values at its corners."""
        if self.choices:
            return self.choices
        return [int(v) if self.integer and v is not None else v for v in (self.low, self.high)]

    def is_at_end(self, value: Value) -> bool:
        """Whether a value is the least or the greatest there is: a better one may lie beyond."""
        numbers = [v for v in self.ends() if isinstance(v, int | float)]
        return len(numbers) > 1 and value in (min(numbers), max(numbers))

    def content(self) -> dict[str, Any]:
        """As plain values, for keeping and comparing."""
        return asdict(self) | {"choices": list(self.choices), "when": dict(self.when)}


@dataclass(frozen=True)
class Space:
    """The dimensions of a study, in order."""

    dimensions: tuple[Dimension, ...]

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """A point, as overrides."""
        point: dict[str, Value] = {}
        for dimension in self.dimensions:
            if dimension.applies(point):
                point[dimension.key] = dimension.suggest(trial)
        return point

    def content(self) -> dict[str, Any]:
        """As plain values by key."""
        return {dimension.key: dimension.content() for dimension in self.dimensions}

    def grid(self) -> dict[str, list[Any]] | None:
        """Every value of every key, where all are choices and none is conditional."""
        if any(not d.choices or d.when for d in self.dimensions):
            return None
        return {d.key: list(d.choices) for d in self.dimensions}

    def corners(self) -> list[dict[str, Value]]:
        """Points at the ends of the dimensions: all there are, or some in which each end occurs."""
        ends = [d.ends() for d in self.dimensions]
        count = math.prod(map(len, ends))
        if count <= MOST_CORNERS:
            numbers = list(range(count))
        else:
            # The first and the last corner with each end in turn, and others drawn alike each time.
            numbers, place = [], 1
            for choices in reversed(ends):
                for base in (0, count - 1):
                    own = base // place % len(choices)
                    numbers += [base + (i - own) * place for i in range(len(choices))]
                place *= len(choices)
            numbers += random.Random(0).sample(range(count), MOST_CORNERS)
        found: dict[tuple[tuple[str, Value], ...], dict[str, Value]] = {}
        for number in numbers:
            values: list[Value] = []
            for choices in reversed(ends):
                number, index = divmod(number, len(choices))
                values.insert(0, choices[index])
            point: dict[str, Value] = {}
            for dimension, value in zip(self.dimensions, values, strict=True):
                if dimension.applies(point):
                    point[dimension.key] = value
            found.setdefault(tuple(point.items()), point)
        return list(found.values())


def checked_space(study: Study, overrides: Sequence[str]) -> Space:
    """The space of `study` under the overrides given with it.

    Raises:
        ConfigError: a key that does not exist, an end outside of the schema's range, a range where
            the schema has none, an override of a searched key, or a corner that is refused.
    """
    space = space_of(study, overrides)
    for corner in space.corners():
        try:
            trial_config(study, overrides, corner)
        except ConfigError as error:
            point = " ".join(f"{key}={value}" for key, value in corner.items())
            raise ConfigError(f"study={study.name} could suggest {point}: {error}") from None
    return space


def space_of(study: Study, overrides: Sequence[str]) -> Space:
    """The space of a study, of which no corner is composed: for workers, after the launcher.

    Raises:
        ConfigError: what the definition says cannot be meant.
    """
    wanted = study.objectives
    known = set(wanted) <= set(OBJECTIVES) and len(set(wanted)) == len(wanted)
    if not known or not 1 <= len(wanted) <= 2:
        raise ConfigError(
            f"study={study.name} minimises {', '.join(wanted) or 'nothing'}: one or two "
            f"of {', '.join(OBJECTIVES)}"
        )
    keys = [search.key for search in study.space]
    for key in keys:
        twice = keys.count(key) > 1 or key in study.fixed
        if twice:
            raise ConfigError(f"study={study.name} sets {key} twice")
        if key in SEEDS or any(key == left or key.startswith(f"{left}.") for left in EXCLUDED):
            raise ConfigError(
                f"study={study.name} searches {key}, which tells no two settings apart"
            )
    if "seed" in study.fixed:
        raise ConfigError(f"study={study.name} fixes seed: that is what `Study.seed` is for")
    if not keys:
        raise ConfigError(f"study={study.name} searches nothing")
    dimensions: list[Dimension] = []
    for search in study.space:
        dimensions.append(_dimension(study, search, overrides, dimensions))
    return Space(tuple(dimensions))


def trial_config(study: Study, overrides: Sequence[str], point: Mapping[str, Value]) -> RunConfig:
    """The run of one point.

    Raises:
        ConfigError: it must not run.
    """
    return compose_run(overrides, {**study.fixed, **point, "seed": study.seed})


def _dimension(
    study: Study, search: Search, overrides: Sequence[str], earlier: Sequence[Dimension]
) -> Dimension:
    when = tuple(search.when.items())
    _require_earlier(search, {dimension.key: dimension for dimension in earlier})
    if search.choices and not (search.low is None and search.high is None and not search.log):
        raise ConfigError(f"{search.key} has choices and a range: give one of them")
    if search.key in groups():
        if not search.choices:
            raise ConfigError(f"{search.key} is a group: a study names the choices")
        return Dimension(search.key, choices=search.choices, when=when)
    # Hyperparameters of one method are declared where it is chosen.
    chosen = {key: value for key, value in when if key in groups()}
    first = {
        other.key: other.choices[0]
        for other in study.space
        if other.key in groups() and other.key not in chosen and other.choices
    }
    fixed = [f"{key}={value}" for key, value in {**study.fixed, **first, **chosen}.items()]
    command = compose_command([*overrides, *fixed])
    for key, field, _ in walk(command):
        if key == search.key:
            integer = "int" in re.findall(r"\w+", str(field.type))
            if search.choices:
                choices = _resolved(search, overrides, fixed)
                return Dimension(search.key, integer, choices=choices, when=when)
            allowed = field.metadata.get("interval")
            if allowed is None:
                raise ConfigError(f"{search.key} is no number: a study names the choices")
            return _range(search, integer, allowed, overrides, fixed, when)
    raise ConfigError(f"study={study.name} searches {search.key}: there is no such key")


def _require_earlier(search: Search, earlier: Mapping[str, Dimension]) -> None:
    """See that the condition of a key can be met."""
    for key, value in search.when.items():
        if key not in earlier:
            raise ConfigError(f"{search.key} depends on {key}, which is not before it")
        choices = earlier[key].choices
        if value not in choices:
            known = ", ".join(map(str, choices)) or "a range"
            raise ConfigError(f"{search.key} depends on {key}={value}, which is {known}")


def _range(
    search: Search,
    integer: bool,
    allowed: Interval,
    overrides: Sequence[str],
    fixed: Sequence[str],
    when: tuple[tuple[str, Value], ...],
) -> Dimension:
    ends = []
    for name, given, declared in (
        ("low", search.low, allowed.low),
        ("high", search.high, allowed.high),
    ):
        end = declared if given is None else _number(search.key, given, overrides, fixed)
        if end is None:
            raise ConfigError(f"{search.key} has no {name}: the schema allows {allowed}; give one")
        ends.append(float(end))
    low, high = ends
    if integer and not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"{search.key} from {low:g} to {high:g}: it takes whole numbers")
    if low >= high or low not in allowed or high not in allowed:
        raise ConfigError(f"{search.key} from {low:g} to {high:g} is no range of {allowed}")
    if search.log and low <= 0:
        raise ConfigError(f"{search.key} from {low:g}: a logarithmic scale begins above 0")
    return Dimension(search.key, integer, search.log, low, high, when=when)


def _resolved(search: Search, overrides: Sequence[str], fixed: Sequence[str]) -> tuple[Value, ...]:
    return tuple(
        _number(search.key, value, overrides, fixed)
        if isinstance(value, str) and "${" in value
        else value
        for value in search.choices
    )


def _number(key: str, value: float | str, overrides: Sequence[str], fixed: Sequence[str]) -> float:
    """A number, or what an interpolation comes to at the scale in force."""
    if not isinstance(value, str):
        return value
    command = compose_command([*overrides, *fixed, f"{key}={value}"])
    found = next(v for k, _, v in walk(command) if k == key)
    if not isinstance(found, int | float):
        raise ConfigError(f"{key}={value} comes to {found}, which is no number")
    return found
