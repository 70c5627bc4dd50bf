"""What a plan will cost: seconds a step from earlier runs of the same shape, else a calibration.

A shape is what decides the speed: architecture, batch, sequence, precision, method. Every estimate
says where it comes from. GPU-hours are arithmetic: the work of a step at the rate that the paper
reports for one H100 and Adam; what evaluation takes, and other methods take besides, is left out.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spam_lab.config.identity import canonical
from spam_lab.config.schema import PRETRAINING, SCHEMA_VERSION, RunConfig
from spam_lab.orchestrate.calibrate import calibrate, has_gpu, parameter_count
from spam_lab.orchestrate.plan import Entry, Plan
from spam_lab.record.state import State
from spam_lab.record.store import run_directories

H100_FLOPS = ((60e6, 33.6e12 / 0.3666), (float("inf"), 88.0e12 / 0.6397))
"""FLOP/s of one H100 by model size: the paper's Table 14, Adam, over the work of a step."""

HISTORY = "earlier runs of the same shape"

PAPER = "paper"
"""The scale whose tasks are for a GPU, whatever they are."""

BUSY_TOKENS = 65_536
"""Tokens a step from which a GPU is busy, so that its FLOP/s say something."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one worker for all that is due, where the figure comes from, and GPU-hours.

    `seconds` is None where the time of some shape is not known here; `h100_hours` is of the runs
    whose steps keep a GPU busy, None where there are none, and `small` counts the others then.
    """

    seconds: float | None
    source: str
    h100_hours: float | None = None
    small: int = 0


@dataclass(frozen=True)
class Price:
    """What is left of one run costs: as `Cost`."""

    seconds: float | None
    source: str
    h100_hours: float | None


@dataclass(frozen=True)
class Measured:
    """What a run of some shape takes. `memory_bytes` is its peak on its device; 0 where unknown."""

    seconds: float
    memory_bytes: int = 0
    source: str = HISTORY


def estimate(plan: Plan, *, measure: bool) -> Cost:
    """The cost of everything that is due.

    With `measure`, what was never timed here is calibrated and H100-hours are worked out. Without,
    only earlier runs are read, and torch is not imported.
    """
    return total(prices(plan, measure=measure).values())


def prices(plan: Plan, *, measure: bool) -> dict[str, Price]:
    """What each run that is due costs, by run_id; as `estimate`.

    A step that keeps a GPU busy is not calibrated where there is none: it would take minutes to say
    that the run takes months.
    """
    known: dict[str, Measured | None] = {**history(plan.root)} if plan.due else {}
    found = {}
    for entry in plan.due:
        shape = shape_of(dataclasses.asdict(entry.config))
        if shape not in known:
            known[shape] = _calibrated(entry.config) if measure else None
        one = known[shape]
        found[entry.run_id] = Price(
            None if one is None else entry.steps_left * one.seconds,
            "" if one is None else one.source,
            _h100_hours(entry) if measure else None,
        )
    return found


def total(chosen: Iterable[Price]) -> Cost:
    """The cost of several runs."""
    listed = list(chosen)
    hours = [price.h100_hours for price in listed if price.h100_hours is not None]
    seconds = [price.seconds for price in listed if price.seconds is not None]
    if len(seconds) < len(listed):
        known, source = None, ""
    else:
        known, source = sum(seconds), " and ".join(sorted({price.source for price in listed}))
    if not hours:
        return Cost(known, source)
    return Cost(known, source, sum(hours), len(listed) - len(hours))


def _calibrated(config: RunConfig) -> Measured | None:
    """What a calibration says; None where it would say nothing of use."""
    if _tokens(config) >= BUSY_TOKENS and not has_gpu(config):
        return None
    if not config.pretrains and config.scale.name == PAPER and not has_gpu(config):
        return None
    return Measured(calibrate(config), source="a calibration")


_OPTIMIZER_SPEED = (
    *("name", "density", "selection", "spike_rule", "unselected", "arithmetic", "rounding"),
    *("state_dtype", "rank", "update_interval", "merge_every", "precondition_every", "ns_steps"),
)
"""Keys of an optimizer that change how long a step takes, where a method has them."""


def shape_of(content: Mapping[str, Any]) -> str:
    """All that decides the speed of a step, as text; `content` is a config as nested mappings."""
    optimizer = {k: content["optimizer"].get(k) for k in _OPTIMIZER_SPEED}
    train = {k: content["train"][k] for k in ("device", "micro_batch_size", "compile")}
    threads = content["cluster"]["threads"]
    precision = {k: v for k, v in content["precision"].items() if k != "name"}
    return canonical(
        {
            "precision": precision,
            "optimizer": optimizer,
            **_trained(content),
            "how": {**train, "threads": threads},
        }
    )


def _trained(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config decides the work of a forward and backward pass."""
    task = content.get("task", {"name": PRETRAINING})
    if task["name"] != PRETRAINING:
        return {"task": task}
    return {
        "model": {k: v for k, v in content["model"].items() if k not in ("name", "paper_steps")},
        "stabilizer": {k: v for k, v in content["stabilizer"].items() if k != "name"},
        "data": {k: content["data"][k] for k in ("batch_size", "sequence_length")},
    }


def history(root: Path) -> dict[str, Measured]:
    """What the runs under `root` took that are done, by shape: median speed, most memory."""
    found: dict[str, list[Measured]] = defaultdict(list)
    for directory in run_directories(root):
        status = directory.status()
        if status.state is not State.DONE or not status.seconds_per_step:
            continue
        content = directory.config_file()
        if content["schema_version"] == SCHEMA_VERSION:
            one = Measured(status.seconds_per_step, status.memory_bytes)
            found[shape_of(content["config"])].append(one)
    return {
        shape: Measured(
            statistics.median(one.seconds for one in alike),
            max(one.memory_bytes for one in alike),
        )
        for shape, alike in found.items()
    }


def _h100_hours(entry: Entry) -> float | None:
    """Hours of one H100 for what is left of a run; None where a step would not keep it busy."""
    if _tokens(entry.config) < BUSY_TOKENS:
        return None
    return entry.steps_left * _h100_seconds(entry.config) / 3600


def _tokens(config: RunConfig) -> int:
    """Tokens of a step; 0 for a task whose work is not counted in tokens."""
    if not config.pretrains:
        return 0
    return config.data.batch_size * config.data.sequence_length


def _h100_seconds(config: RunConfig) -> float:
    """Seconds a step on one H100, at the rate of the paper's Table 14."""
    parameters = parameter_count(config.model)
    embedding = config.model.vocab_size * config.model.hidden_size
    attention = 6 * config.model.num_hidden_layers * config.model.hidden_size
    work = _tokens(config) * (
        6 * (parameters - embedding) + attention * config.data.sequence_length
    )
    rate = next(flops for size, flops in H100_FLOPS if parameters <= size)
    return work / rate
