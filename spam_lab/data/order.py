"""The order of the data: which rows make up the batch of a step, as a pure function of a seed.

It promises the same order on every machine and with every later NumPy: the stream of NumPy's
legacy `RandomState` is frozen by NumPy's own compatibility policy (NEP 19), which that of
`numpy.random.Generator` and of torch is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def random_state(data_seed: int, *position: int) -> np.random.RandomState:
    """The generator for one `position` (an epoch; an epoch and a block) under `data_seed`.

    Raises:
        ValueError: if `data_seed` does not fit 64 bits.
    """
    if not 0 <= data_seed < 2**64:
        raise ValueError(f"data_seed={data_seed} does not fit 64 bits")
    words = [data_seed & 0xFFFFFFFF, data_seed >> 32, *position]
    return np.random.RandomState(np.array(words, dtype=np.uint32))


def permutation(count: int, data_seed: int, *position: int) -> Indices:
    """A permutation of 0 .. count - 1."""
    return random_state(data_seed, *position).permutation(count).astype(np.int64)


def spread(count: int) -> Indices:
    """0 .. count - 1 in bit-reversed order: the first few are spread evenly over the whole.

    Validation takes as many rows as it may, and a few thousand tokens in a row would all be of one
    document.
    """
    bits = max(1, (count - 1).bit_length())
    numbers = np.arange(2**bits)
    reversed_bits = sum(((numbers >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))
    order = np.asarray(reversed_bits, dtype=np.int64)
    return order[order < count]


class EpochOrder:
    """An endless sequence of the rows 0 .. rows - 1, each epoch in its own permutation."""

    def __init__(self, rows: int, data_seed: int) -> None:
        self._rows = rows
        self._data_seed = data_seed
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def batch(self, step: int, size: int) -> Indices:
        """The rows of the batch of `step` (from 0). It may straddle epochs, or span several."""
        parts, place, end = [], step * size, (step + 1) * size
        while place < end:
            epoch, start = divmod(place, self._rows)
            part = self._in_epoch(epoch)[start : start + end - place]
            parts.append(part)
            place += len(part)
        return np.concatenate(parts)

    def _in_epoch(self, epoch: int) -> Indices:
        if epoch != self._epoch:
            self._permutation = permutation(self._rows, self._data_seed, epoch)
            self._epoch = epoch
        return self._permutation
