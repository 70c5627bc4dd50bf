"""Likelihoods: the loss of a batch of training rows, and which choice of a question is likeliest.

It owns the batch of questions and its sums. It promises lm-evaluation-harness's two accuracies: the
right choice has the largest log-likelihood, or the largest per character, the first of equals. The
logits of positions that nothing is asked of are never computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from spam_lab.data.rows import IGNORED, Batch, Row
from spam_lab.tasks.finetuning.encoding import Scored

SUMS = ("questions", "right", "right_normalised", "loss", "tokens")
"""What is added up for each task: questions, those answered rightly by either accuracy, the loss of
the right choices in nats, and their tokens."""


@dataclass(frozen=True)
class Encoded:
    """A question as tokens: its task's place, its choices and the place of the right one."""

    task: int
    choices: tuple[Scored, ...]
    gold: int


@dataclass(frozen=True)
class QuestionBatch:
    """Questions, their choices in rows below each other.

    Attributes:
        input_ids: int64 [R, T], what is read.
        targets: int64 [R, T], the next token where it is scored, else IGNORED.
        lengths: float64 [R], characters of the choice.
        question: int64 [R], the row's question, from 0.
        gold: int64 [Q], the row of the right choice.
        task: int64 [Q], the place of the question's task.
        counts: float64 [Q], 1; 0 for a question that only fills up a rank's share.
    """

    input_ids: Tensor
    targets: Tensor
    lengths: Tensor
    question: Tensor
    gold: Tensor
    task: Tensor
    counts: Tensor

    @classmethod
    def of(cls, questions: Sequence[Encoded]) -> QuestionBatch:
        """Questions in their order, their rows padded at the end."""
        rows = [choice for question in questions for choice in question.choices]
        width = max(len(row.ids) for row in rows) - 1
        inputs = torch.zeros(len(rows), width, dtype=torch.int64)
        targets = torch.full_like(inputs, IGNORED)
        for place, row in enumerate(rows):
            ids = torch.tensor(row.ids)
            # Attention is causal and the padding comes last: nothing that counts sees it.
            inputs[place, : len(ids) - 1] = ids[:-1]
            targets[place, len(ids) - 1 - row.count : len(ids) - 1] = ids[-row.count :]
        sizes = torch.tensor([len(question.choices) for question in questions])
        firsts = sizes.cumsum(0) - sizes
        return cls(
            inputs,
            targets,
            torch.tensor([row.length for row in rows], dtype=torch.float64),
            torch.repeat_interleave(torch.arange(len(questions)), sizes),
            firsts + torch.tensor([question.gold for question in questions]),
            torch.tensor([question.task for question in questions]),
            torch.ones(len(questions), dtype=torch.float64),
        )

    @property
    def weight(self) -> int:
        """Questions."""
        return len(self.gold)

    def to(self, device: torch.device | str) -> QuestionBatch:
        """The same batch on `device`."""
        if torch.device(device).type == "mps":
            raise ValueError("sums are float64, which mps does not have")
        return QuestionBatch(*(getattr(self, name).to(device) for name in _FIELDS))

    def split(self, size: int) -> list[QuestionBatch]:
        """Batches of `size` questions, in order; the last one may have fewer."""
        return [self._part(i, min(i + size, self.weight)) for i in range(0, self.weight, size)]

    def share(self, rank: int, size: int) -> QuestionBatch:
        """The questions of one of `size` ranks: in order, as evenly as they divide.

        A rank that gets none has one that does not count: all pass the model once a batch.
        """
        each, more = divmod(self.weight, size)
        start = rank * each + min(rank, more)
        end = start + each + (rank < more)
        if start == end:
            return replace(self._part(0, 1), counts=torch.zeros(1, dtype=torch.float64))
        return self._part(start, end)

    def _part(self, start: int, end: int) -> QuestionBatch:
        rows = (self.question >= start) & (self.question < end)
        first = int(rows.nonzero()[0])
        mine = slice(start, end)
        return QuestionBatch(
            self.input_ids[rows],
            self.targets[rows],
            self.lengths[rows],
            self.question[rows] - start,
            self.gold[mine] - first,
            self.task[mine],
            self.counts[mine],
        )


_FIELDS = tuple(QuestionBatch.__dataclass_fields__)


def batch_of(rows: Sequence[Row]) -> Batch:
    """Training rows padded at their end to the longest."""
    width = max(len(row.ids) for row in rows)

    def padded(values: Sequence[Tensor], filling: int) -> Tensor:
        return torch.stack([functional.pad(v, (0, width - len(v)), value=filling) for v in values])

    ids = [torch.from_numpy(row.ids) for row in rows]
    labels = [torch.from_numpy(row.labels) for row in rows]
    return Batch(padded(ids, 0), padded(labels, IGNORED))


def summed_loss(module: nn.Module, batch: Batch) -> Tensor:
    """The sum of the losses of the labelled tokens, float32."""
    targets = functional.pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
    return _losses(module, batch.input_ids, targets).sum()


def sums(model: nn.Module, batch: QuestionBatch, tasks: int) -> Tensor:
    """`SUMS` of each of so many tasks, float64 [tasks * len(SUMS)]."""
    losses = _losses(model, batch.input_ids, batch.targets)
    likelihoods = -losses.double().sum(dim=1)
    tokens = (batch.targets != IGNORED).sum(dim=1).double()
    right = _first_best(likelihoods, batch) == batch.gold
    normalised = _first_best(likelihoods / batch.lengths, batch) == batch.gold
    each = torch.stack(
        [
            torch.ones_like(batch.counts),
            right.double(),
            normalised.double(),
            -likelihoods[batch.gold],
            tokens[batch.gold],
        ],
        dim=1,
    )
    # Where it does not count, a loss that is not finite does not either.
    each = torch.where(batch.counts[:, None] > 0, each, torch.zeros_like(each))
    total = each.new_zeros(tasks, len(SUMS))
    return total.index_add(0, batch.task, each).reshape(-1)


def _first_best(values: Tensor, batch: QuestionBatch) -> Tensor:
    """The row of each question's largest value, int64 [Q]: the first of equals."""
    best = values.new_full((batch.weight,), float("-inf"))
    best = best.scatter_reduce(0, batch.question, values, "amax")
    rows = torch.arange(len(values), device=values.device)
    # NaN equals nothing: such a question has no best row, and is not answered.
    places = torch.where(values == best[batch.question], rows, len(values))
    first = torch.full_like(batch.gold, len(values))
    return first.scatter_reduce(0, batch.question, places, "amin")


def _losses(module: nn.Module, input_ids: Tensor, targets: Tensor) -> Tensor:
    """The loss of each target, float32 [R, columns]: 0 where it is IGNORED."""
    asked = (targets != IGNORED).any(dim=0).nonzero()
    if not len(asked):
        # Still a graph through every weight: other ranks wait for its gradients.
        nothing: Tensor = module(input_ids=input_ids, use_cache=False).logits.float()
        return nothing.sum(dim=2) * 0
    columns = torch.arange(int(asked[0]), int(asked[-1]) + 1, device=input_ids.device)
    logits = module(input_ids=input_ids, use_cache=False, logits_to_keep=columns).logits
    wanted = targets[:, columns]
    losses = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(),
        wanted.reshape(-1),
        ignore_index=IGNORED,
        reduction="none",
    )
    return losses.reshape(wanted.shape)
