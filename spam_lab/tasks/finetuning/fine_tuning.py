"""The task itself: a pretrained model trained on the rows of its tasks and tested on each of them.

It promises batches that are a function of the data seed and the step, the same tests for every
seed, and metrics where lower is better beside each accuracy: `validation/error` is 1 less the mean
of the tasks' accuracies, `validation/loss` the mean loss of the right choices in nats a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from spam_lab.config.schema import RunConfig
from spam_lab.data.errors import DataError
from spam_lab.data.order import EpochOrder
from spam_lab.data.state import matching
from spam_lab.models.kinds import module_kind
from spam_lab.tasks.finetuning import FineTuningConfig
from spam_lab.tasks.finetuning.documents import read_split
from spam_lab.tasks.finetuning.encoding import TextEncoder, scored, training_rows
from spam_lab.tasks.finetuning.prompts import EXAMPLES, question
from spam_lab.tasks.finetuning.scoring import (
    SUMS,
    Encoded,
    QuestionBatch,
    batch_of,
    summed_loss,
    sums,
)
from spam_lab.tasks.finetuning.weights import (
    fingerprint,
    load_encoder,
    load_model,
    model_config,
    place_of,
)
from spam_lab.tasks.registry import TaskBatch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from spam_lab.data.rows import Batch, Row

_LARGEST = 700.0
"""A loss of which exp() is a number."""

_WITHOUT_LIMIT = 2048
"""Tokens read of a test prompt where the model has no limit of its own (ALiBi, rotary)."""


class FineTuning:
    """One model, its training rows and its tests."""

    def __init__(self, config: RunConfig, place: str) -> None:
        """Read weights and rows.

        Raises:
            ConfigError: they are not here, or do not fit each other.
            DataError: they are damaged.
        """
        settings = config.task
        assert isinstance(settings, FineTuningConfig) and settings.batch_size is not None
        cache = Path(config.paths.cache)
        folder = place_of(settings.weights, cache)
        model = load_model(settings, folder, getattr(torch, config.precision.weights), place)
        if settings.trained == "blocks":
            freeze_all_but_blocks(model)
        self.model: Module = model
        shape = model_config(settings, folder)
        encoder = load_encoder(settings.weights, folder, shape.vocab_size)
        self._tasks = tuple(settings.tasks)
        self._batch_size = settings.batch_size
        self._rows, training = _training_rows(settings, encoder, cache)
        own_limit: int = getattr(shape, "max_position_embeddings", _WITHOUT_LIMIT)
        limit = settings.test_length or own_limit
        self.validation: Sequence[TaskBatch] = _tests(settings, encoder, limit, cache)
        self._order = EpochOrder(len(self._rows), config.data_seed)
        self._step = 0
        self._identity = {
            "weights": fingerprint(settings.weights),
            "tokenizer": encoder.tokenizer.fingerprint,
            "rows": training,
            "template": settings.template,
            "sequence_length": settings.sequence_length,
            "batch_size": settings.batch_size,
            "data_seed": config.data_seed,
        }
        self.unit = "rows"
        self.units_per_step = settings.batch_size

    def next_batch(self) -> TaskBatch:
        """The rows of the next step, padded to the longest of them."""
        places = self._order.batch(self._step, self._batch_size)
        self._step += 1
        return batch_of([self._rows[int(place)] for place in places])

    def loss(self, module: Module, batch: TaskBatch) -> Tensor:
        """The sum of the losses of all tokens that count."""
        return summed_loss(module, cast("Batch", batch))

    def score(self, model: Module, batch: TaskBatch) -> Tensor:
        """What each task's metrics are made of."""
        return sums(model, cast("QuestionBatch", batch), len(self._tasks))

    def summary(self, totals: Sequence[float]) -> dict[str, float]:
        """Accuracies of each task, and their means.

        Raises:
            ValueError: a task has no question.
        """
        return summary(self._tasks, totals)

    def updated(self, step: int) -> None:
        """Nothing is kept of a step."""

    def state_dict(self) -> dict[str, Any]:
        """The step, and what it counts batches of."""
        return {"data": self._identity, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the batch after the last one of `state`.

        Raises:
            DataError: it is of other weights or rows.
        """
        self._step = int(matching(state, self._identity)["step"])

    def close(self) -> None:
        """Nothing to stop: all rows are in memory."""


def freeze_all_but_blocks(model: Module) -> None:
    """Train the matrices of attention and feed-forward alone."""
    for name, parameter in model.named_parameters():
        in_block = module_kind(name) in ("attention", "ffn") and parameter.dim() > 1
        parameter.requires_grad_(in_block)


def summary(tasks: Sequence[str], totals: Sequence[float]) -> dict[str, float]:
    """Metrics by name, from `SUMS` of each task in their order.

    Raises:
        ValueError: a task has no question.
    """
    values, means = {}, {"accuracy": 0.0, "accuracy_normalised": 0.0}
    loss = tokens = 0.0
    for place, name in enumerate(tasks):
        found = dict(zip(SUMS, totals[place * len(SUMS) :], strict=False))
        if not found.get("questions"):
            raise ValueError(f"{name} was tested on no question: raise task.test_rows")
        for metric, right in (("accuracy", "right"), ("accuracy_normalised", "right_normalised")):
            share = found[right] / found["questions"]
            values[f"validation/{name}/{metric}"] = share
            means[metric] += share / len(tasks)
        loss, tokens = loss + found["loss"], tokens + found["tokens"]
    values |= {f"validation/{metric}": share for metric, share in means.items()}
    values["validation/error"] = 1 - means["accuracy"]
    values["validation/loss"] = loss / tokens
    if values["validation/loss"] < _LARGEST:
        values["validation/perplexity"] = math.exp(values["validation/loss"])
    return values


def _training_rows(
    settings: FineTuningConfig, encoder: TextEncoder, cache: Path
) -> tuple[list[Row], list[str]]:
    """Every training row with something that counts, task after task, and the files' digests."""
    example = EXAMPLES[settings.template]
    rows: list[Row] = []
    digests = []
    for name in settings.tasks:
        split = read_split(
            name, training=True, rows=settings.rows, limit=settings.training_rows, cache=cache
        )
        found = training_rows(
            encoder,
            [example(name, document) for document in split.documents],
            answers_alone=settings.template == "completion",
            length=settings.sequence_length,
        )
        rows += [row for row in found if row.predicted()]
        digests.append(f"{name} {len(split.documents)} {split.sha256}")
    if not rows:
        raise DataError("no training row has an answer: raise task.sequence_length")
    return rows, digests


def _tests(
    settings: FineTuningConfig, encoder: TextEncoder, limit: int, cache: Path
) -> list[QuestionBatch]:
    """All questions, the longest first, `batch_size` a batch."""
    found = []
    for place, name in enumerate(settings.tasks):
        split = read_split(
            name, training=False, rows=settings.rows, limit=settings.test_rows, cache=cache
        )
        for document in split.documents:
            asked = question(name, document)
            try:
                choices = tuple(scored(encoder, asked.choices, limit))
            except ValueError as error:
                raise DataError(f"{split.path}: {error}") from None
            found.append(Encoded(place, choices, asked.gold))
    # Questions of like length pad each other least; a sort keeps the order of equals.
    found.sort(key=lambda one: -max(len(choice.ids) for choice in one.choices))
    size = settings.batch_size or 1
    return [QuestionBatch.of(found[i : i + size]) for i in range(0, len(found), size)]
