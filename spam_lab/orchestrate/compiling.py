"""Whether the runs of a plan are worth compiling an optimizer for.

This module owns the resolution of `train.compile=auto`. It promises that no number depends on it:
compiled and eager steps are equal. Torch is not loaded.
"""

from __future__ import annotations

import dataclasses

from spam_lab.config.schema import ModelConfig, TrainConfig
from spam_lab.orchestrate.plan import Plan

WORTH = 4_000_000_000
"""Updates of single weights, over all runs of a plan, from which on compiling pays: it takes some
20 to 40 s of processor time for the kernels of a sweep, and saves 5 to 15 ns an update."""

COMPILED = ("spam",)
"""Methods that have kernels."""


def resolved(train: TrainConfig, plan: Plan) -> TrainConfig:
    """`train`, with `compile=auto` replaced by "possible" where that saves time over the plan."""
    if train.compile != "auto":
        return train
    updates = sum(
        entry.steps_left * rough_weights(entry.config.model)
        for entry in plan.due
        if entry.config.optimizer.name in COMPILED and entry.config.pretrains
    )
    return dataclasses.replace(train, compile="possible") if updates >= WORTH else train


def rough_weights(model: ModelConfig) -> int:
    """Weights of a decoder of this size, to some ten percent, without building it."""
    layer = 4 * model.hidden_size**2 + 3 * model.hidden_size * model.intermediate_size
    return 2 * model.vocab_size * model.hidden_size + model.num_hidden_layers * layer
