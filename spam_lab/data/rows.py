"""Rows and batches: how the tokens of documents become rows of one fixed length.

It owns the two layouts, for every source of text alike. packed: every document is followed by the
end-of-text token, all are joined, and the whole is cut into rows. document (the paper's): a row is
one document, truncated so that it still ends in the end-of-text token, as T5's tokenizer does in
the reference script, and padded to the row's length; padding is never predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from spam_lab.data.errors import DataError

IGNORED = -100
"""The label of a position that is not predicted (what torch's cross entropy ignores)."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One sequence: `ids` and `labels`, both [T]; a label is its id, or IGNORED."""

    ids: Ids
    labels: Ids

    def predicted(self) -> int:
        """Tokens predicted: the first position of a row has no context to be predicted from."""
        return int((self.labels[1:] != IGNORED).sum())


@dataclass(frozen=True)
class Batch:
    """`input_ids` and `labels`, both int64 [B, T], not shifted; a label is its id, or IGNORED."""

    input_ids: torch.Tensor
    labels: torch.Tensor

    @property
    def weight(self) -> int:
        """Tokens predicted."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Batch:
        """The rows, stacked in their order."""
        return cls(
            torch.from_numpy(np.stack([row.ids for row in rows])),
            torch.from_numpy(np.stack([row.labels for row in rows])),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return Batch(self.input_ids.to(device), self.labels.to(device))

    def split(self, size: int) -> list[Batch]:
        """Batches of `size` rows, in order; the last one may have fewer."""
        starts = range(0, len(self.input_ids), size)
        return [Batch(self.input_ids[i : i + size], self.labels[i : i + size]) for i in starts]

    def share(self, rank: int, size: int) -> Batch:
        """The rows of one of `size` ranks: in order, as evenly as they divide.

        Ranks that get a row less than others get one that predicts nothing beside theirs: all have
        equally many, and so split into equally many micro-batches, in step with each other.
        """
        if size == 1:
            return self
        each, more = divmod(len(self.input_ids), size)
        start = rank * each + min(rank, more)
        mine = slice(start, start + each + (rank < more))
        ids, labels = self.input_ids[mine], self.labels[mine]
        if more and rank >= more:
            ids = torch.cat([ids, self.input_ids[:1]])
            labels = torch.cat([labels, torch.full_like(self.labels[:1], IGNORED)])
        return Batch(ids, labels)


class Layout(Protocol):
    """Takes documents in, gives rows out. `leftover` is all the state it has."""

    leftover: list[int]

    def feed(self, ids: Sequence[int]) -> None:
        """Take in one document's tokens, which hold no end-of-text token."""
        ...

    def pop(self) -> Row | None:
        """The next row, or None if more documents are needed first."""
        ...


class PackedRows:
    """Documents joined end to end. `leftover` are tokens that no row has taken yet."""

    def __init__(self, length: int, eos_id: int) -> None:
        self._length = length
        self._eos_id = eos_id
        self.leftover: list[int] = []

    def feed(self, ids: Sequence[int]) -> None:
        """Append a document and its end."""
        self.leftover.extend(ids)
        self.leftover.append(self._eos_id)

    def pop(self) -> Row | None:
        """The next `length` tokens."""
        if len(self.leftover) < self._length:
            return None
        ids = np.array(self.leftover[: self._length], dtype=np.int64)
        del self.leftover[: self._length]
        return Row(ids, ids)


class DocumentRows:
    """One truncated document a row. `leftover` is a document fed and not yet popped."""

    def __init__(self, length: int, eos_id: int) -> None:
        self._length = length
        self._eos_id = eos_id
        self.leftover: list[int] = []

    def feed(self, ids: Sequence[int]) -> None:
        """Take in the document whose row comes next."""
        self.leftover = [*ids[: self._length - 1], self._eos_id]

    def pop(self) -> Row | None:
        """The document's row."""
        if not self.leftover:
            return None
        size = len(self.leftover)
        # Any id serves as padding: attention is causal and the padding comes last, so nothing
        # that is predicted ever sees it.
        ids = np.full(self._length, self._eos_id, dtype=np.int64)
        labels = np.full(self._length, IGNORED, dtype=np.int64)
        ids[:size] = labels[:size] = self.leftover
        self.leftover = []
        return Row(ids, labels)


LAYOUTS: dict[str, type[PackedRows] | type[DocumentRows]] = {
    "packed": PackedRows,
    "document": DocumentRows,
}


def validation_batches(rows: Iterable[Row], tokens: int, batch_size: int) -> list[Batch]:
    """The first rows whose predictions together are at most `tokens`, `batch_size` rows a batch.

    Raises:
        DataError: if not even the first row fits, or there is none.
    """
    batches: list[Batch] = []
    waiting: list[Row] = []
    for row in rows:
        tokens -= row.predicted()
        if tokens < 0:
            break
        waiting.append(row)
        if len(waiting) == batch_size:
            batches.append(Batch.of(waiting))
            waiting = []
    if waiting:
        batches.append(Batch.of(waiting))
    if not batches:
        raise DataError("no validation row fits into evaluation.tokens: raise evaluation.tokens")
    return batches
