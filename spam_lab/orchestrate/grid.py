"""Sweeps as code: cells with labels and overrides, in explicit lists or a panel at a time.

A cell says which overrides it sets and, in its labels, where its result belongs in the exhibit
(panel, value on the axis). Two cells may set the same overrides under different labels: they share
their runs. `cluster.*` among the overrides is what the cell's job asks for, where the command line
does not say otherwise. A file in `sweeps/` holds one function `sweep() -> Sweep`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Value = str | int | float | bool | None
"""What an override may be set to. A string may be an interpolation, `${scaled:interval,500}`."""


@dataclass(frozen=True)
class Cell:
    """One point of an exhibit: where it is shown, and the overrides that make it.

    `beside` maps config groups to options: the cell is asked for only where the command line
    chooses them, and takes others in its overrides (a second corpus beside data=c4).
    """

    labels: Mapping[str, Value]
    overrides: Mapping[str, Value]
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """A named list of cells that answers one question, each run with every seed.

    `description` is one sentence: the question. Names are file names: letters, digits, `_`.
    """

    name: str
    description: str
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]


def panel(
    name: str,
    key: str,
    values: Sequence[Value],
    *,
    labels: Sequence[Value] | None = None,
    fixed: Mapping[str, Value] | None = None,
) -> list[Cell]:
    """Cells of one panel of a figure: `key` set to each of `values`, all else `fixed`.

    `labels` are the values as the paper prints them, where they differ from what is set.
    """
    shown = values if labels is None else labels
    return [
        Cell({"panel": name, "value": label}, {**(fixed or {}), key: value})
        for label, value in zip(shown, values, strict=True)
    ]
