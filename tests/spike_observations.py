"""Observed runs for the analysis tests, made of chosen gradients: counts by plain numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spam_lab.files import write_json
from spam_lab.orchestrate.expand import Request
from spam_lab.record.metrics import MetricWriter
from spam_lab.record.store import RunDirectory

TENSORS = (
    ("embed.weight", "embedding", None, 16),
    ("layers.0.attn.weight", "attention", 0, 4),
    ("layers.0.mlp.weight", "ffn", 0, 4),
    ("layers.0.norm.weight", "norm", 0, 2),
    ("layers.1.attn.weight", "attention", 1, 4),
    ("layers.1.mlp.weight", "ffn", 1, 4),
    ("layers.1.norm.weight", "norm", 1, 2),
    ("head.weight", "head", None, 4),
)
STEPS = 400
LAYERS = ("attention", "ffn", "norm")
BETA1, BETA2 = 0.9, 0.99


@dataclass(frozen=True)
class Made:
    """What a made run has: spikes a kind of layer at given steps, and bumps of the loss at others.

    `rows` is at how many steps each weight of the embedding has a gradient at all; `sampled` says
    that the definition was left to the followed weights.
    """

    spikes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    bumps: Sequence[int] = ()
    rows: int = 3
    seed: int = 0
    sampled: bool = False


def gradients(made: Made) -> np.ndarray:
    """float64 [steps, weights]: noise, but for the embedding, and what is planted."""
    generator = np.random.default_rng(made.seed)
    columns = []
    for _, kind, _, entries in TENSORS:
        values = generator.standard_normal((STEPS, entries))
        if kind == "embedding":
            values[:] = 0.0
            for weight in range(entries):
                values[generator.choice(STEPS, made.rows, replace=False), weight] = 1.0
        for step in made.spikes.get(kind, ()):
            values[step - 1] = 500.0
        columns.append(values)
    return np.concatenate(columns, axis=1)


def write(root: Path, run_id: str, made: Made) -> None:
    """Write the run's observations and training losses under `root`."""
    directory = RunDirectory(root, run_id)
    values = gradients(made)
    folder = directory.observations_path
    folder.mkdir(parents=True)
    counts, parameters = _counts(values)
    if made.sampled:
        counts = counts[counts["reading"] != "definition"]
    parameters.to_parquet(folder / "parameters.parquet")
    counts.to_parquet(folder / "counts.parquet")
    coordinates, trajectories = _trajectories(values)
    coordinates.to_parquet(folder / "coordinates.parquet")
    trajectories.to_parquet(folder / "trajectories.parquet")
    write_json(folder / "about.json", {"steps": STEPS, "window": STEPS, "closed": True})
    generator = np.random.default_rng(100 + made.seed)
    losses = 4 + 3 * np.exp(-np.arange(STEPS) / 80) + 0.02 * generator.standard_normal(STEPS)
    for step in made.bumps:
        losses[step - 1 : step + 1] += 1.0
    writer = MetricWriter(directory.metrics_path)
    for step, loss in enumerate(losses.tolist(), start=1):
        writer.add(step, {"train/loss": loss})
    writer.flush()


def _counts(values: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    magnitude = np.abs(values)
    so_far = np.cumsum(magnitude, axis=0) / np.arange(1, STEPS + 1)[:, None]
    spiking = {
        "definition": magnitude > 50 * magnitude.mean(axis=0),
        "running": magnitude > 50 * so_far,
    }
    rows: list[dict[str, Any]] = []
    start = 0
    for name, kind, layer, entries in TENSORS:
        for reading, flags in spiking.items():
            of_tensor = flags[:, start : start + entries].sum(axis=1)
            rows += [
                {"step": step, "name": name, "kind": kind, "layer": layer, "entries": entries}
                | {"reading": reading, "threshold": 50.0, "count": count, "examined": entries}
                for step, count in enumerate(of_tensor.tolist(), start=1)
            ]
        start += entries
    columns = ["name", "kind", "layer", "entries"]
    parameters = pd.DataFrame(TENSORS, columns=columns).astype({"layer": "Int32"})
    return pd.DataFrame(rows).astype({"layer": "Int32"}), parameters


def _trajectories(values: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every weight is followed."""
    moments = np.zeros((2, *values.shape))
    m, v = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for step, gradient in enumerate(values):
        m = BETA1 * m + (1 - BETA1) * gradient
        v = BETA2 * v + (1 - BETA2) * gradient**2
        moments[:, step] = m, v
    owners = [t for t in TENSORS for _ in range(t[3])]
    places = [index for t in TENSORS for index in range(t[3])]
    coordinates = pd.DataFrame(owners, columns=["name", "kind", "layer", "group_entries"])
    coordinates = coordinates.astype({"layer": "Int32"})
    coordinates["index"], coordinates["coordinate"] = places, range(len(owners))
    count = values.shape[1]
    frame = pd.DataFrame(
        {
            "step": np.repeat(np.arange(1, STEPS + 1), count),
            "coordinate": np.tile(np.arange(count), STEPS),
            "gradient": values.ravel(),
            "m": moments[0].ravel(),
            "v": moments[1].ravel(),
        }
    )
    return coordinates, frame


def frame_of(requests: Sequence[Request], root: Path, states: Mapping[str, str]) -> pd.DataFrame:
    """What `analysis.frames.results` gives, as far as these exhibits read it; done unless said."""
    rows = [
        {
            **request.labels,
            "seed": request.seed,
            "run_id": request.run_id,
            "cell_id": request.cell_id,
            "state": states.get(request.run_id, "done"),
            "loss": float("nan"),
            "root": str(root),
        }
        for request in requests
    ]
    return pd.DataFrame(rows, dtype=object)
