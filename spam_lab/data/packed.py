"""Training and validation data from the embedded corpus: fast, offline, the same everywhere.

It owns the token array of a split (every document followed by the end of text, tokenized once and
cached) and its rows in either layout. It promises that the batch of a step is a pure function of
the data seed and the step, so the whole state of the training data is one number.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spam_lab.config.schema import DataConfig
from spam_lab.data import embedded
from spam_lab.data.cache import TokenArray, cached_tokens
from spam_lab.data.errors import DataError
from spam_lab.data.order import EpochOrder, Indices, spread
from spam_lab.data.rows import Batch, DocumentRows, Row
from spam_lab.data.state import describe, matching
from spam_lab.data.tokenizer import Tokenizer


class EmbeddedTrainingData:
    """Endless batches from the training split; see `spam_lab.data.batches.TrainingData`."""

    def __init__(
        self, config: DataConfig, tokenizer: Tokenizer, *, data_seed: int, cache: Path
    ) -> None:
        """Tokenize the split, or take it from `cache`.

        Raises:
            DataError: if the split is shorter than one row.
        """
        self._rows = _rows(config, tokenizer, "train", cache)
        self._order = EpochOrder(len(self._rows), data_seed)
        self._batch_size = config.batch_size
        self._step = 0
        self._identity = describe(
            config, tokenizer, data_seed=data_seed, corpus=embedded.fingerprint()
        )

    def next_batch(self) -> Batch:
        """The batch of the next step: int64 [batch_size, sequence_length]."""
        rows = self._order.batch(self._step, self._batch_size)
        self._step += 1
        return self._rows.batch(rows)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; the next batch after loading it is the next batch now."""
        return {"data": self._identity, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken.

        Raises:
            DataError: if it was taken from other data.
        """
        self._step = int(matching(state, self._identity)["step"])

    def close(self) -> None:
        """Nothing to stop: reading is done by `next_batch` itself."""


def validation_rows(config: DataConfig, tokenizer: Tokenizer, cache: Path) -> Iterator[Row]:
    """The rows of the validation split, in an order whose beginning is spread over all of it."""
    rows = _rows(config, tokenizer, "validation", cache)
    return (rows.row(int(number)) for number in spread(len(rows)))


class _PackedTable:
    """Windows of `length` tokens, end to end; the tokens after the last are left out."""

    def __init__(self, tokens: TokenArray, length: int) -> None:
        count = len(tokens) // length
        self._windows = tokens[: count * length].reshape(count, length)

    def __len__(self) -> int:
        return len(self._windows)

    def row(self, number: int) -> Row:
        ids = self._windows[number].astype(np.int64)
        return Row(ids, ids)

    def batch(self, rows: Indices) -> Batch:
        ids = torch.from_numpy(self._windows[rows].astype(np.int64))
        return Batch(ids, ids)


class _DocumentTable:
    """One truncated document a row. No embedded document has the end of text inside."""

    def __init__(self, tokens: TokenArray, length: int, eos_id: int) -> None:
        self._tokens = tokens
        self._ends = np.flatnonzero(tokens == eos_id)
        self._starts = np.concatenate([[0], self._ends[:-1] + 1])
        self._layout = DocumentRows(length, eos_id)

    def __len__(self) -> int:
        return len(self._ends)

    def row(self, number: int) -> Row:
        self._layout.feed(self._tokens[self._starts[number] : self._ends[number]].tolist())
        row = self._layout.pop()
        assert row is not None  # a document fed is a row
        return row

    def batch(self, rows: Indices) -> Batch:
        return Batch.of([self.row(int(number)) for number in rows])


def _rows(
    config: DataConfig, tokenizer: Tokenizer, split: str, cache: Path
) -> _PackedTable | _DocumentTable:
    tokens = cached_tokens(
        cache,
        f"embedded-{split}-{Path(tokenizer.name).name}",
        f"{embedded.fingerprint()} {split} {tokenizer.fingerprint}",
        lambda: _tokenize(tokenizer, split),
    )
    if config.layout == "document":
        return _DocumentTable(tokens, config.sequence_length, tokenizer.eos_id)
    if len(tokens) < config.sequence_length:
        raise DataError(
            f"the embedded {split} text has {len(tokens)} tokens, "
            f"less than one row of data.sequence_length={config.sequence_length}"
        )
    return _PackedTable(tokens, config.sequence_length)


def _tokenize(tokenizer: Tokenizer, split: str) -> TokenArray:
    texts = [document.text for document in embedded.documents(split)]
    ids = [number for text in tokenizer.encode_batch(texts) for number in (*text, tokenizer.eos_id)]
    if tokenizer.vocab_size <= 2**16:
        return np.array(ids, dtype=np.uint16)
    return np.array(ids, dtype=np.uint32)
