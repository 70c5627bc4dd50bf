"""Training and validation data from a stream of documents: C4, SlimPajama, or a local mirror.

It promises exact continuation: a saved position is a few JSON-able values (where the current block
of documents began, how many of it were used, which tokens were left over), and whatever the number
of reading threads, it is that of the last batch handed out.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from spam_lab.config.schema import DataConfig
from spam_lab.data.ahead import ReadAhead
from spam_lab.data.documents import START, Chunk, Place, ShuffledDocuments, in_order
from spam_lab.data.errors import DataError
from spam_lab.data.rows import LAYOUTS, Batch, Layout, Row
from spam_lab.data.source import open_source
from spam_lab.data.state import describe, matching
from spam_lab.data.tokenizer import Tokenizer

_CHUNK = 64  # documents tokenized in one call


class StreamTrainingData:
    """Endless batches from a stream; see `spam_lab.data.batches.TrainingData`."""

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, *, data_seed: int) -> None:
        """Open the training split; nothing is read before the first batch.

        Raises:
            DataError: if it cannot be reached.
        """
        source = open_source(config, "train")
        self._config = config
        self._tokenizer = tokenizer
        self._documents = ShuffledDocuments(
            source, data_seed=data_seed, block=config.shuffle_block, chunk=_CHUNK
        )
        self._identity = describe(
            config,
            tokenizer,
            data_seed=data_seed,
            corpus=_digest(f"{source.identity}, blocks of {config.shuffle_block}"),
        )
        self._ahead: ReadAhead[Chunk, _Tokenized] | None = None
        self._go_to(START, 0, [])

    def next_batch(self) -> Batch:
        """The next batch: int64 [batch_size, sequence_length].

        Raises:
            DataError: if the stream cannot be read any further.
        """
        rows: list[Row] = []
        while len(rows) < self._config.batch_size:
            row = self._layout.pop()
            if row is None:
                self._layout.feed(self._next_document())
            else:
                rows.append(row)
        return Batch.of(rows)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; the next batch after loading it is the next batch now."""
        return {
            "data": self._identity,
            "place": self._place,
            "used": self._used,
            "leftover": list(self._layout.leftover),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken.

        Raises:
            DataError: if it was taken from other data.
        """
        matching(state, self._identity)
        self._go_to(state["place"], int(state["used"]), list(state["leftover"]))

    def close(self) -> None:
        """Stop reading ahead."""
        if self._ahead is not None:
            self._ahead.close()

    def _go_to(self, place: Place, used: int, leftover: list[int]) -> None:
        """Continue after `used` documents of the block at `place`."""
        self.close()
        self._place, self._used = place, used
        self._layout = _layout(self._config, self._tokenizer)
        self._layout.leftover = leftover
        self._waiting: deque[list[int]] = deque()
        self._chunks: Iterator[_Tokenized] | None = None

    def _next_document(self) -> list[int]:
        while not self._waiting:
            tokenized = next(self._reading(), None)
            if tokenized is None:  # an endless stream only ends so after it raised an error
                raise DataError("the stream has failed or was closed; load a saved position")
            chunk, ids = tokenized
            self._place, self._used = chunk.place, chunk.first
            self._waiting.extend(ids)
        self._used += 1
        return self._waiting.popleft()

    def _reading(self) -> Iterator[_Tokenized]:
        if self._chunks is None:
            chunks = self._documents.chunks(self._place, self._used)
            if self._config.workers:
                self._ahead = ReadAhead(self._tokenize, chunks, self._config.workers)
                self._chunks = self._ahead
            else:
                self._chunks = map(self._tokenize, chunks)
        return self._chunks

    def _tokenize(self, chunk: Chunk) -> _Tokenized:
        return chunk, self._tokenizer.encode_batch(chunk.texts)


_Tokenized = tuple[Chunk, list[list[int]]]


def validation_rows(config: DataConfig, tokenizer: Tokenizer) -> Iterator[Row]:
    """The rows of the validation split, in its own order.

    Raises:
        DataError: if it cannot be reached or read.
    """
    layout = _layout(config, tokenizer)
    for texts in in_order(open_source(config, "validation"), _CHUNK):
        for ids in tokenizer.encode_batch(texts):
            layout.feed(ids)
            while (row := layout.pop()) is not None:
                yield row


def _layout(config: DataConfig, tokenizer: Tokenizer) -> Layout:
    return LAYOUTS[config.layout](config.sequence_length, tokenizer.eos_id)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
