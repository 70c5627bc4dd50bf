"""Rows, batches and their order: the two layouts, the permutation of epochs, reading ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spam_lab.data.ahead import ReadAhead
from spam_lab.data.errors import DataError
from spam_lab.data.order import EpochOrder, permutation
from spam_lab.data.rows import IGNORED, Batch, DocumentRows, PackedRows, Row, validation_batches

EOS = 0
DOCUMENTS = st.lists(st.lists(st.integers(1, 99), max_size=30), max_size=20)


@given(DOCUMENTS, st.integers(2, 12))
def test_packed_rows_are_the_joined_documents_cut(documents: list[list[int]], length: int) -> None:
    layout, rows = PackedRows(length, EOS), []
    for ids in documents:
        layout.feed(ids)
        while (row := layout.pop()) is not None:
            assert (row.ids == row.labels).all()
            rows += row.ids.tolist()
    joined = [number for ids in documents for number in [*ids, EOS]]
    whole = len(joined) // length * length
    assert rows == joined[:whole]
    assert layout.leftover == joined[whole:]


@given(DOCUMENTS, st.integers(2, 12))
def test_document_rows_are_truncated_and_padded(documents: list[list[int]], length: int) -> None:
    layout = DocumentRows(length, EOS)
    for ids in documents:
        layout.feed(ids)
        row = layout.pop()
        assert row is not None
        kept = [*ids[: length - 1], EOS]
        assert row.labels.tolist() == kept + [IGNORED] * (length - len(kept))
        assert row.ids[: len(kept)].tolist() == kept
        assert row.predicted() == len(kept) - 1
        assert layout.pop() is None


def test_validation_stops_before_the_row_that_does_not_fit() -> None:
    rows = [Row(np.arange(5), np.arange(5)) for _ in range(10)]  # 4 predictions each
    batches = validation_batches(rows, tokens=31, batch_size=3)
    assert [len(batch.input_ids) for batch in batches] == [3, 3, 1]
    with pytest.raises(DataError, match=r"evaluation\.tokens"):
        validation_batches(rows, tokens=3, batch_size=3)


def test_batch_splits_and_moves() -> None:
    batch = Batch(torch.arange(20).view(5, 4), torch.arange(20).view(5, 4))
    parts = batch.to("cpu").split(2)
    assert [len(part.labels) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.input_ids for part in parts]), batch.input_ids)


def test_order_is_pinned() -> None:
    """The stream of RandomState is frozen; if this fails, old runs can no longer be repeated."""
    assert permutation(10, 0, 0).tolist() == [8, 2, 4, 3, 6, 0, 9, 1, 5, 7]
    assert permutation(10, 2**40 + 7, 3, 1).tolist() == [1, 5, 8, 7, 2, 6, 9, 3, 0, 4]


@given(st.integers(1, 20), st.integers(1, 50), st.integers(0, 2**64 - 1))
def test_every_epoch_has_every_row_once(rows: int, size: int, data_seed: int) -> None:
    order = EpochOrder(rows, data_seed)
    steps = 3 * rows // size + 1
    sequence = np.concatenate([order.batch(step, size) for step in range(steps)])
    for epoch in range(len(sequence) // rows):
        part = sequence[epoch * rows : (epoch + 1) * rows]
        assert part.tolist() == permutation(rows, data_seed, epoch).tolist()
        assert sorted(part) == list(range(rows))


def test_seed_must_fit() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        permutation(3, 2**64)


@pytest.mark.parametrize("workers", [1, 3])
def test_read_ahead_is_map(workers: int) -> None:
    ahead = ReadAhead(lambda number: number * number, iter(range(100)), workers)
    assert list(ahead) == [number * number for number in range(100)]
    assert list(ahead) == []
    ahead.close()


def test_read_ahead_hands_on_errors_in_their_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 0
        raise DataError("the source broke")

    ahead = ReadAhead(lambda number: 1 // number, items(), 2)
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    with pytest.raises(DataError, match="the source broke"):
        next(ahead)
    ahead.close()


def test_read_ahead_stops_in_an_endless_source() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    before = threading.active_count()
    ahead = ReadAhead(lambda number: number, endless(), 2)
    next(ahead)
    ahead.close()
    ahead.close()
    assert list(ahead) == []
    assert threading.active_count() == before
