"""What a plan will cost: seconds a step from earlier runs of the same shape, else a calibration.

A shape is what decides the speed: architecture, batch, sequence, precision, method. Every estimate
says where it comes from. GPU-hours are arithmetic: the work of a step at the rate that the paper
reports for one H100.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from spam_lab.config.compose import from_dict
from spam_lab.config.identity import canonical
from spam_lab.config.schema import RunConfig
from spam_lab.orchestrate.calibrate import calibrate, parameter_count
from spam_lab.orchestrate.plan import Plan
from spam_lab.record.state import State
from spam_lab.record.store import run_directories

H100_FLOPS = ((60e6, 33.6e12 / 0.3666), (float("inf"), 88.0e12 / 0.6397))
"""FLOP/s of one H100 by model size: the paper's Table 14, Adam, over the work of a step."""

HISTORY = "earlier runs of the same shape"

BUSY_TOKENS = 65_536
"""Tokens a step from which a GPU is busy, so that its FLOP/s say something."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one worker for all that is due, where the figure comes from, and GPU-hours.

    `seconds` is None where no run of some shape has been timed; `h100_hours` where a step is too
    small to keep a GPU busy.
    """

    seconds: float | None
    source: str
    h100_hours: float | None = None


def estimate(plan: Plan) -> Cost:
    """The cost of everything that is due; what was never timed here is calibrated."""
    known = _history(plan.root)
    seconds, sources, hours = 0.0, set(), 0.0
    busy = True
    for entry in plan.due:
        shape = shape_of(entry.config)
        if shape not in known:
            known[shape] = (calibrate(entry.config), "a calibration")
        per_step, source = known[shape]
        seconds += entry.steps_left * per_step
        sources.add(source)
        tokens = entry.config.data.batch_size * entry.config.data.sequence_length
        busy = busy and tokens >= BUSY_TOKENS
        if busy:
            hours += entry.steps_left * _h100_seconds(entry.config) / 3600
    return Cost(seconds, " and ".join(sorted(sources)), hours if busy and plan.due else None)


def estimate_from_history(plan: Plan) -> Cost:
    """The cost as far as earlier runs tell it: nothing is timed, and torch is not imported."""
    known = _history(plan.root)
    shapes = [(entry, known.get(shape_of(entry.config))) for entry in plan.due]
    timed = [entry.steps_left * found[0] for entry, found in shapes if found is not None]
    return Cost(sum(timed) if len(timed) == len(shapes) else None, HISTORY)


def shape_of(config: RunConfig) -> str:
    """All that decides the speed of a step, as text."""
    content = dataclasses.asdict(config)
    optimizer = {k: content["optimizer"].get(k) for k in ("name", "density", "spike_rule")}
    data = {k: content["data"][k] for k in ("batch_size", "sequence_length")}
    train = {k: content["train"][k] for k in ("device", "micro_batch_size")}
    threads = content["cluster"]["threads"]
    model, precision = content["model"], content["precision"]
    for labelled in (model, precision):
        labelled.pop("name")
    model.pop("paper_steps")
    return canonical(
        {
            "model": model,
            "precision": precision,
            "optimizer": optimizer,
            "data": data,
            "how": {**train, "threads": threads},
        }
    )


def _history(root: Path) -> dict[str, tuple[float, str]]:
    """Median seconds a step by shape, from the runs under `root` that are done."""
    found: dict[str, list[float]] = defaultdict(list)
    for directory in run_directories(root):
        status = directory.status()
        if status.state is State.DONE and status.seconds_per_step:
            config = from_dict(directory.config_file()["config"])
            found[shape_of(config)].append(status.seconds_per_step)
    return {k: (statistics.median(v), HISTORY) for k, v in found.items()}


def _h100_seconds(config: RunConfig) -> float:
    """Seconds a step on one H100, at the rate of the paper's Table 14."""
    parameters = parameter_count(config.model)
    embedding = config.model.vocab_size * config.model.hidden_size
    tokens = config.data.batch_size * config.data.sequence_length
    attention = 6 * config.model.num_hidden_layers * config.model.hidden_size
    work = tokens * (6 * (parameters - embedding) + attention * config.data.sequence_length)
    rate = next(flops for size, flops in H100_FLOPS if parameters <= size)
    return work / rate
