"""Validation: what a task's model scores over the whole validation set."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import nn

from spam_lab.tasks.registry import Task, TaskBatch
from spam_lab.train.distributed import SOLO, World


@torch.no_grad()
def evaluate(
    task: Task,
    model: nn.Module,
    batches: Iterable[TaskBatch],
    device: torch.device,
    autocast: AbstractContextManager[object],
    world: World = SOLO,
) -> dict[str, float]:
    """The task's metrics by name. The model's mode is put back.

    Args:
        task: what scores.
        model: any model of the task; its parameters may be sharded.
        batches: those of this rank, equally many on every rank.
        device: where to compute.
        autocast: around the forward passes.
        world: the ranks whose scores count together.
    """
    was_training = model.training
    model.eval()
    total: torch.Tensor | None = None
    with autocast:
        for batch in batches:
            score = task.score(model, batch.to(device))
            total = score if total is None else total + score
    model.train(was_training)
    if total is not None and world.size > 1:
        total = world.total(total)
    return task.summary([] if total is None else total.tolist())
