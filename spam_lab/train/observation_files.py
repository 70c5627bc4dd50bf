"""The files of an observed run, `<run directory>/observations/`: Parquet tables and `about.json`.

    about.json            steps observed, the window asked for, whether it has ended and why,
                          thresholds, theta, and the memory that observing took at most, in bytes
    parameters.parquet    one row a tensor that trains: name, kind, layer, entries
    counts.parquet        one row a step, tensor, reading and threshold: how many entries spiked,
                          and how many could be looked at
    coordinates.parquet   one row a weight that is followed: where it is, and of how many it was
                          drawn
    trajectories.parquet  one row a step and such weight: gradient, m and v

Readings are "definition", "running" and "spam" (see `spike_counts`); the threshold of "spam" is
theta. Rows of "definition" are there once the window has ended. Steps count from 1, layers from 0.
Each file is written whole and replaces the one before; `about.json` comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from spam_lab.files import replacing, write_json
from spam_lab.models.kinds import module_layer
from spam_lab.train.trajectories import VALUES, Coordinate, Sizes

if TYPE_CHECKING:
    from pandas import DataFrame

READINGS = ("definition", "running", "spam")


@dataclass(frozen=True)
class Content:
    """What there is to write, on the CPU.

    Attributes:
        sizes: name, kind and entries of each tensor.
        coordinates: the weights that are followed.
        thresholds, theta: what was counted with.
        steps, window: steps observed, and steps asked for.
        closed, reason: whether the window has ended, and why if before its last step.
        peak_bytes: the most memory that observing held.
        counts: (steps, tensors, thresholds + 2), as `SpikeCounts.counts`.
        definition: (steps, tensors, thresholds); None where it is not known.
        trajectories: (steps, 3, coordinates), as `Trajectories.values`.
    """

    sizes: Sizes
    coordinates: Sequence[Coordinate]
    thresholds: Sequence[float]
    theta: float
    steps: int
    window: int
    closed: bool
    reason: str
    peak_bytes: int
    counts: Tensor
    definition: Tensor | None
    trajectories: Tensor


def write_observations(folder: Path, content: Content) -> None:
    """Write all files.

    Raises:
        OSError: the disk refused; the files that were there are still there.
    """
    tables = {
        "parameters": _parameters(content),
        "counts": _counts(content),
        "coordinates": _coordinates(content),
        "trajectories": _trajectories(content),
    }
    for name, table in tables.items():
        with replacing(folder / f"{name}.parquet") as file:
            table.to_parquet(file, engine="pyarrow", index=False)
    about = {
        "steps": content.steps,
        "window": content.window,
        "closed": content.closed,
        "reason": content.reason,
        "thresholds": list(content.thresholds),
        "theta": content.theta,
        "peak_bytes": content.peak_bytes,
    }
    write_json(folder / "about.json", about)


def _parameters(content: Content) -> DataFrame:
    return _tensors(content, np.arange(len(content.sizes)))


def _counts(content: Content) -> DataFrame:
    """Tables of (steps, tensors), one a reading and threshold, below each other."""
    counts, tensors = content.counts.numpy(), len(content.sizes)
    entries = np.array([size for _, _, size in content.sizes], dtype=np.int64)
    everything = np.broadcast_to(entries, (content.steps, tensors))
    found = []
    for column, threshold in enumerate(content.thresholds):
        if content.definition is not None:
            known = content.definition[:, :, column].numpy()
            found.append(("definition", threshold, known, everything))
        found.append(("running", threshold, counts[:, :, column], everything))
    found.append(("spam", content.theta, counts[:, :, -2], counts[:, :, -1]))
    import pandas as pd

    each = content.steps * tensors
    steps = np.repeat(np.arange(1, content.steps + 1, dtype=np.int32), tensors)
    table = _tensors(content, np.tile(np.arange(tensors), content.steps * len(found)))
    table.insert(0, "step", np.tile(steps, len(found)))
    codes = np.repeat([READINGS.index(reading) for reading, *_ in found], each)
    table["reading"] = pd.Categorical.from_codes(codes, categories=pd.Index(READINGS))
    table["threshold"] = np.repeat([float(threshold) for _, threshold, _, _ in found], each)
    table["count"] = np.concatenate([c.reshape(-1) for *_, c, _ in found]).astype(np.int64)
    table["examined"] = np.concatenate([e.reshape(-1) for *_, e in found]).astype(np.int64)
    return table


def _coordinates(content: Content) -> DataFrame:
    chosen = content.coordinates
    table = _tensors(content, np.array([one.tensor for one in chosen]))
    table.insert(0, "coordinate", np.arange(len(chosen), dtype=np.int32))
    table = table.drop(columns="entries")
    table["index"] = np.array([one.index for one in chosen], dtype=np.int64)
    table["group_entries"] = np.array([one.group_entries for one in chosen], dtype=np.int64)
    return table


def _trajectories(content: Content) -> DataFrame:
    import pandas as pd

    steps, _, count = content.trajectories.shape
    columns = {
        "step": np.repeat(np.arange(1, steps + 1, dtype=np.int32), count),
        "coordinate": np.tile(np.arange(count, dtype=np.int32), steps),
    }
    for number, name in enumerate(VALUES):
        columns[name] = content.trajectories[:, number].numpy().reshape(-1)
    return pd.DataFrame(columns)


def _tensors(content: Content, numbers: np.ndarray) -> DataFrame:
    """Name, kind, layer and entries of these tensors, a row each."""
    import pandas as pd

    names = [name for name, _, _ in content.sizes]
    kinds = [kind for _, kind, _ in content.sizes]
    layers = pd.array([module_layer(name) for name in names], dtype="Int32")
    labels = list(dict.fromkeys(kinds))
    kind_codes = np.array([labels.index(kind) for kind in kinds])
    entries = np.array([size for _, _, size in content.sizes], dtype=np.int64)
    return pd.DataFrame(
        {
            "name": pd.Categorical.from_codes(numbers, categories=pd.Index(names)),
            "kind": pd.Categorical.from_codes(kind_codes[numbers], categories=pd.Index(labels)),
            "layer": layers[numbers],
            "entries": entries[numbers],
        }
    )
