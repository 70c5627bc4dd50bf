"""Typed hyperparameter fields: each carries its meaning, unit and range as dataclass metadata.

`number`, `choice` and `text` declare a field; `problems` checks a whole tree of dataclasses
against what they declare and returns every violation, each naming the key, the value and what is
allowed. Nothing here knows any particular hyperparameter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


class ConfigError(ValueError):
    """A configuration that must not run. Its text names each key, its value and what is allowed."""

    @classmethod
    def of(cls, found: Sequence[Problem]) -> ConfigError:
        """One error for all `found` problems, a line each."""
        return cls("\n".join(str(problem) for problem in found))


@dataclass(frozen=True)
class Problem:
    """One refused value: `key` is its dotted path, `allowed` says what would be accepted."""

    key: str
    value: Any
    allowed: str

    def __str__(self) -> str:
        return f"{self.key}={_shown(self.value)} is not allowed: {self.allowed}"


@dataclass(frozen=True)
class Interval:
    """A range of numbers; `low_open` and `high_open` exclude the ends."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.low is not None and (value < self.low or (self.low_open and value == self.low)):
            return False
        return self.high is None or not (
            value > self.high or (self.high_open and value == self.high)
        )

    def __str__(self) -> str:
        low = "" if self.low is None else f"{'>' if self.low_open else '>='} {self.low:g}"
        high = "" if self.high is None else f"{'<' if self.high_open else '<='} {self.high:g}"
        return " and ".join(part for part in (low, high) if part) or "any number"


def number(
    default: float | int | None = dataclasses.MISSING,  # type: ignore[assignment]
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    high_open: bool = False,
    unit: str = "",
    doc: str,
) -> Any:
    """A numeric field in an interval. An infinite value is refused; None passes if typed so."""
    interval = Interval(low, high, low_open, high_open)
    return dataclasses.field(
        default=default, metadata={"interval": interval, "unit": unit, "doc": doc}
    )


def choice(default: str | None, options: Sequence[str], *, doc: str) -> Any:
    """A field that takes one of the named options. None passes if typed so."""
    return dataclasses.field(default=default, metadata={"options": tuple(options), "doc": doc})


def text(default: str | None = dataclasses.MISSING, *, doc: str) -> Any:  # type: ignore[assignment]
    """A free text field (a name, a path, a hub address)."""
    return dataclasses.field(default=default, metadata={"doc": doc})


def flag(default: bool, *, doc: str) -> Any:
    """A field that is true or false."""
    return dataclasses.field(default=default, metadata={"doc": doc})


def mapping(*, doc: str) -> Any:
    """A field that holds a mapping, empty unless the YAML fills it."""
    return dataclasses.field(default_factory=dict, metadata={"doc": doc})


def numbers(*, doc: str) -> Any:
    """A field that holds a list of numbers, empty unless the YAML fills it."""
    return dataclasses.field(default_factory=list, metadata={"doc": doc})


def texts(*, doc: str) -> Any:
    """A field that holds a list of texts, empty unless given."""
    return dataclasses.field(default_factory=list, metadata={"doc": doc})


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Every leaf field of a dataclass tree: (dotted key, field, value), in declaration order."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        key = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{key}.")
        else:
            yield key, field, value


def problems(config: Any) -> list[Problem]:
    """Every value in the tree that lies outside its declared interval or options."""
    found = []
    for key, field, value in walk(config):
        if value is None:
            continue
        interval, options = field.metadata.get("interval"), field.metadata.get("options")
        if interval is not None and (math.isinf(value) or value not in interval):
            unit = field.metadata["unit"]
            found.append(Problem(key, value, f"{interval}{f' {unit}' if unit else ''}"))
        if options is not None and value not in options:
            found.append(Problem(key, value, f"one of {', '.join(options)}"))
    return found


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
