"""Validation: the mean loss over all predicted tokens of a fixed set of documents.

Every token counts once, whatever batch it sits in, and the sum is divided by their number. (The
reference averages batches and divides by one more than their number, which flatters a loss by up to
a few percent.)
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import nn

from spam_lab.data.rows import Batch
from spam_lab.models.loss import token_losses
from spam_lab.train.distributed import SOLO, World


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    autocast: AbstractContextManager[object],
    world: World = SOLO,
) -> float:
    """The token-weighted validation loss, in nats a token. The model's mode is put back.

    Args:
        model: any model; its parameters may be sharded.
        batches: those of this rank, equally many on every rank.
        device: where to compute.
        autocast: around the forward passes.
        world: the ranks whose tokens count together.
    """
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    tokens = 0
    with autocast:
        for batch in batches:
            loss, count = token_losses(model, batch.to(device))
            total += loss.double()
            tokens += int(count)
    model.train(was_training)
    if world.size > 1:
        total, counted = world.total(torch.stack([total, total.new_tensor(tokens)]))
        tokens = int(counted)
    if tokens == 0:
        raise ValueError("the validation set predicts no token: raise evaluation.tokens")
    return float(total) / tokens
