"""Shuffled documents with a position: the order in which a stream's documents are read.

Each epoch visits the shards in a permutation drawn from the data seed; documents are taken in
blocks, and each block is permuted. It promises that a position, taken between any two documents,
returns to exactly there: it holds where the block began, so the block is read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from spam_lab.data.errors import DataError
from spam_lab.data.order import permutation
from spam_lab.data.source import Shard, Source

Place = dict[str, Any]
"""A place between two documents of an epoch: {epoch, block, visited, inside}. `visited` counts
whole shards; `inside` is the state within the next one, None at its start."""


@dataclass(frozen=True)
class Chunk:
    """Documents next to each other: those numbered `first`, `first` + 1, ... of a permuted block
    that begins at `place`."""

    texts: list[str]
    place: Place
    first: int


START: Place = {"epoch": 0, "block": 0, "visited": 0, "inside": None}


class ShuffledDocuments:
    """Endless shuffled documents of `source`."""

    def __init__(self, source: Source, *, data_seed: int, block: int, chunk: int) -> None:
        """Blocks of `block` documents, handed out in chunks of at most `chunk`."""
        self._source = source
        self._data_seed = data_seed
        self._block = block
        self._chunk = chunk

    def chunks(self, place: Place, first: int) -> Iterator[Chunk]:
        """The documents from number `first` of the block that begins at `place`.

        Raises:
            DataError: if the source cannot be read, or holds no document.
        """
        while True:
            epoch, empty = place["epoch"], True
            for block_place, texts in self._blocks(place):
                empty = False
                order = permutation(len(texts), self._data_seed, epoch, block_place["block"])
                for start in range(first, len(texts), self._chunk):
                    chosen = [texts[number] for number in order[start : start + self._chunk]]
                    yield Chunk(chosen, block_place, start)
                first = 0
            if empty and place["visited"] == 0 and place["inside"] is None:
                raise DataError(f"{self._source.name} holds no document")
            place = {**START, "epoch": epoch + 1}

    def _blocks(self, place: Place) -> Iterator[tuple[Place, list[str]]]:
        """The blocks from `place` to the end of its epoch, each with where it begins."""
        order = permutation(self._source.shards, self._data_seed, place["epoch"])
        visited, inside, block = place["visited"], place["inside"], place["block"]
        shard: Shard | None = None
        while True:
            begins = {**place, "block": block, "visited": visited, "inside": inside}
            texts: list[str] = []
            while len(texts) < self._block and visited < self._source.shards:
                shard = shard or self._source.shard(int(order[visited]), inside)
                texts += shard.take(self._block - len(texts))
                if len(texts) < self._block:
                    visited, shard, inside = visited + 1, None, None
            if not texts:
                return
            yield begins, texts
            inside = shard.state() if shard else None
            block += 1


def in_order(source: Source, chunk: int) -> Iterator[list[str]]:
    """All documents of `source` in their own order, once, in lists of at most `chunk`."""
    for number in range(source.shards):
        shard = source.shard(number)
        while texts := shard.take(chunk):
            yield texts
