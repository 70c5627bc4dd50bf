"""The training loss of a causal language model: cross entropy of each next token, in float32."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

_IGNORED = -100


class TokenBatch(Protocol):
    """Rows of token ids. Both tensors are int64 [B, T] and not shifted; label -100 is ignored."""

    @property
    def input_ids(self) -> Tensor:
        """What the model reads."""
        ...

    @property
    def labels(self) -> Tensor:
        """What it should have said, position by position."""
        ...


def token_losses(model: nn.Module, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """The sum of the losses of all predicted tokens (float32, nats) and their number (int64).

    Both are scalars on the model's device. Position t is predicted from the positions before it, so
    the first label of a row never counts. Logits have the model's dtype and the cross entropy is
    float32; the reference takes it in bfloat16, where a loss of 3 moves in steps of 1/64.
    """
    logits = model(input_ids=batch.input_ids, use_cache=False).logits
    # The labels are shifted, not the logits: a slice of the logits would be a copy of them.
    labels = functional.pad(batch.labels[:, 1:], (0, 1), value=_IGNORED).reshape(-1)
    total = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels, ignore_index=_IGNORED, reduction="sum"
    )
    return total, torch.count_nonzero(labels != _IGNORED)
