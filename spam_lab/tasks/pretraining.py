"""Pre-training of a language model from scratch: the paper's main task, and the lab's default.

Its model, text and stabilizer have config groups of their own (`model`, `data`, `stabilizer`). It
is judged by the token-weighted validation loss, in nats a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from spam_lab.config.schema import RunConfig, TaskConfig
from spam_lab.tasks.registry import TaskBatch, task

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from spam_lab.data.rows import Batch


_LARGEST = 700.0
"""A loss of which exp() is a number."""


class Pretraining:
    """One language model and the text it is trained on."""

    def __init__(self, config: RunConfig, place: str) -> None:
        import torch

        from spam_lab.data.batches import open_training_data, open_validation_data
        from spam_lab.models.build import build_model

        data, cache = config.data, Path(config.paths.cache)
        vocabulary = config.model.vocab_size
        self._data = open_training_data(
            data, data_seed=config.data_seed, vocab_size=vocabulary, cache=cache
        )
        self.validation: Sequence[TaskBatch] = open_validation_data(
            data, tokens=config.evaluation.tokens, vocab_size=vocabulary, cache=cache
        )
        torch.manual_seed(config.seed)
        self.model: Module = build_model(
            config.model,
            sequence_length=data.sequence_length,
            seed=config.seed,
            dtype=getattr(torch, config.precision.weights),
            device=place,
            stabilizer=config.stabilizer,
        )
        self.unit = "tokens"
        self.units_per_step = data.batch_size * data.sequence_length
        self.next_batch = self._data.next_batch
        self.state_dict = self._data.state_dict
        self.load_state_dict = self._data.load_state_dict
        self.close = self._data.close

    def loss(self, module: Module, batch: TaskBatch) -> Tensor:
        """The sum of the losses of all predicted tokens."""
        from spam_lab.models.loss import token_losses

        return token_losses(module, cast("Batch", batch))[0]

    def score(self, model: Module, batch: TaskBatch) -> Tensor:
        """The sum of the losses, and how many tokens were predicted."""
        import torch

        from spam_lab.models.loss import token_losses

        loss, tokens = token_losses(model, cast("Batch", batch))
        return torch.stack([loss.double(), tokens.double()])

    def summary(self, totals: Sequence[float]) -> dict[str, float]:
        """Loss and perplexity.

        Raises:
            ValueError: no token was predicted.
        """
        if not totals or not totals[1]:
            raise ValueError("the validation set predicts no token: raise evaluation.tokens")
        loss = totals[0] / totals[1]
        values = {"validation/loss": loss}
        if loss < _LARGEST:
            values["validation/perplexity"] = math.exp(loss)
        return values

    def updated(self, step: int) -> None:
        """Nothing is kept of a step."""


@task("pretraining", TaskConfig)
def open_pretraining(config: RunConfig, place: str) -> Any:
    """The run's model and text."""
    return Pretraining(config, place)
