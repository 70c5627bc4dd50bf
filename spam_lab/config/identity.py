"""Which runs are the same: `run_id` is the hash of all that determines a run's numbers, `cell_id`
the same without the seeds.

The canonical form is the typed config as sorted JSON, without the keys of `EXCLUDED`. Types are
fixed by the schema, so 5000, 5000.0 and 5e3 are one run; a changed default is another. Anything
whose text could differ between machines is refused.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from spam_lab.config.schema import PRETRAINING, SCHEMA_VERSION, RunConfig

DIGITS = 16
"""Hex digits of an id."""

EXCLUDED = (
    "paths",  # where things are kept
    "cluster",  # where it runs
    "train",  # how the loop runs: device, micro-batches, logging, checkpoints
    "scale",  # has done its work: the values it mapped are in the other groups
    "model.name",  # labels
    "model.paper_steps",
    "data.name",
    "data.workers",
    "data.files",  # a mirror of the same text
    "data.validation_files",
    "task.path",  # where a file lies that another key of the task names by its checksum
    "task.tables",  # tables from which a value was taken
    "precision.name",
    "stabilizer.name",
    "observe.name",
    "observe.definitions",  # tables from which a value was taken
    "optimizer.learning_rates",
    "optimizer.densities",
    "optimizer.intervals",
    "optimizer.ranks",
    "task.sizes",
)
"""Keys that do not determine a run's numbers."""

_OF_PRETRAINING = ("model", "data", "stabilizer", "evaluation.tokens")
"""Keys that pre-training reads, and no other task."""

_LATER = ("precision.weight_bits", "precision.activation_bits")
"""Keys younger than recorded runs: null is what those runs did, and leaves no trace in an id."""

SEEDS = ("seed", "data_seed")
"""Keys that tell runs of one cell apart."""


def run_id(config: RunConfig) -> str:
    """The run's name: 16 hex digits of the sha256 of its canonical form."""
    return _digest(canonical(dataclasses.asdict(config)))


def cell_id(config: RunConfig) -> str:
    """The cell's name: that of the run, seeds left out."""
    return _digest(canonical(dataclasses.asdict(config), EXCLUDED + SEEDS))


def canonical(config: Mapping[str, Any], excluded: tuple[str, ...] = EXCLUDED) -> str:
    """Sorted JSON of all in a config (as nested mappings) that determines the numbers.

    Raises:
        TypeError: a value has no stable text: not a finite number, a string, a flag, null, or a
            list or string-keyed mapping of these.
    """
    content = copy.deepcopy(dict(config))
    # A task is all that another one leaves unread, and pre-training has nothing but its name.
    task = content.get("task", {"name": PRETRAINING})["name"]
    unread = ("task",) if task == PRETRAINING else _OF_PRETRAINING
    for key in (*excluded, *unread):
        _remove(content, key.split("."))
    for key in _LATER:
        _remove(content, key.split("."), only_null=True)
    _require_stable(content, "config")
    content["schema_version"] = SCHEMA_VERSION
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def differences(one: Any, other: Any, prefix: str = "") -> list[str]:
    """What differs between two nested mappings, `key: one -> other`, a line each."""
    if isinstance(one, dict) and isinstance(other, dict):
        lines = []
        for key in sorted(one.keys() | other.keys()):
            lines += differences(one.get(key), other.get(key), f"{prefix}{key}.")
        return lines
    return [] if one == other else [f"{prefix.rstrip('.')}: {one!r} -> {other!r}"]


def _remove(content: dict[str, Any], path: list[str], only_null: bool = False) -> None:
    *parents, last = path
    for key in parents:
        content = content.get(key, {})
    if not only_null or content.get(last) is None:
        content.pop(last, None)


def _require_stable(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError(f"{key} has a key that is not a string: {name!r}")
            _require_stable(item, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _require_stable(item, f"{key}[{index}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{key}={value} is not a finite number and has no identity")
    elif not isinstance(value, str | int | bool | None):
        raise TypeError(f"{key}={value!r} is a {type(value).__name__} and has no identity")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
