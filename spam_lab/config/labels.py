"""Readable names for the runs of a sweep: method, model, what is unusual about each, and the seed.

What is unusual is a value that differs from the most common one among the runs of the same method
and model, so the setting that a sweep varies around has the shortest name. Where no value is the
most common, as in a plain grid, every run is named by its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from spam_lab.config.schema import PRETRAINING

_NAMED = (
    "optimizer.",
    "stabilizer.",
    "schedule.",
    "data.",
    "precision.",
    "evaluation.",
    "model.",
    "task.",
)
"""Only keys of these groups are worth a word."""

_UNNAMED = (
    "optimizer.name",
    "optimizer.learning_rates.",
    "optimizer.densities.",
    "optimizer.intervals.",
    "optimizer.ranks.",
    "stabilizer.name",
    "precision.name",
    "data.name",
    "task.name",
    "task.model",
)


def run_labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each config (nested mappings, as in config.json), in order."""
    rows = [flatten(config) for config in configs]
    kin: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        kin[_kin(row)].append(row)
    usual = {key: _usual(alike) for key, alike in kin.items()}
    return [_label(row, usual[_kin(row)]) for row in rows]


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _kin(row: Mapping[str, Any]) -> tuple[str, str]:
    task = str(row.get("task.name", PRETRAINING))
    trained = row["model.name"] if task == PRETRAINING else row.get("task.model", task)
    return str(row["optimizer.name"]), str(trained)


def _usual(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The most common value of each key, as text; empty where several are equally common."""
    keys = dict.fromkeys(
        key
        for row in rows
        for key in row
        if key.startswith(_NAMED) and not key.startswith(_UNNAMED)
    )
    counts = {key: Counter(repr(row.get(key)) for row in rows) for key in keys}
    usual = {}
    for key, count in counts.items():
        (value, often), *others = count.most_common(2)
        usual[key] = "" if others and others[0][1] == often else value
    return usual


def _label(row: Mapping[str, Any], usual: Mapping[str, str]) -> str:
    unusual = [
        f"{key.rpartition('.')[2]}={_short(row[key])}"
        for key, value in usual.items()
        if key in row and repr(row[key]) != value
    ]
    return " ".join([*_kin(row), *unusual, f"seed={row['seed']}"])


def _short(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        return str(int(value))
    return "null" if value is None else str(value)
