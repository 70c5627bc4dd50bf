"""Which entries of one tensor have moments, stored as little as possible.

This module owns the three ways to hold a selection: a seed, for random masks, which then take no
memory at all; bits, or positions where those are fewer bytes, for the rest. It promises an exact
count, ascending order, the same entries on every device and rank, and to list them a piece at a
time, so that nobody needs a list as long as the tensor.

A random mask is stratified. Cut the n units of a tensor into k strata as equal as whole numbers
allow and take one unit of each, so stratum j gives the unit

    start(j) + floor(hash(j) * (start(j + 1) - start(j)) / 2^32),  start(j) = floor(j S / 2^32)

where S = ceil(2^32 n / k) and hash is a 32-bit mixing function of j and the seed. A unit is one
entry, a block of entries that follow each other, or a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

State = dict[str, Any]

BLOCK = 64
"""Entries of a block: 256 bytes of float32, four cache lines."""

_LOW = 0xFFFFFFFF
_MIX = 0x45D9F3B
_BITS_PER_POSITION = 32


@dataclass(frozen=True)
class Piece:
    """A stretch of a flat tensor and the entries selected in it.

    Attributes:
        start, stop: the stretch.
        first, last: which of the moments belong to it.
        positions: of the selected entries, int64, counted from `start`.
    """

    start: int
    stop: int
    first: int
    last: int
    positions: Tensor


@dataclass(frozen=True)
class RandomMask:
    """A stratified random mask.

    Attributes:
        units: n, how many units the tensor has.
        selected: k, how many are selected.
        unit: entries a unit.
        seed: 62 bits.
    """

    units: int
    selected: int
    unit: int
    seed: int

    @property
    def count(self) -> int:
        """How many entries are selected."""
        return self.selected * self.unit

    def numbers(self) -> list[int]:
        """What `unit_positions` needs beside j: the seed's two halves and S."""
        stride = -(-(self.units << 32) // self.selected)
        return [self.seed & 0x7FFFFFFF, self.seed >> 31, stride]

    def pieces(self, limit: int, device: torch.device) -> Iterator[Piece]:
        """The mask in stretches of about `limit` entries."""
        halves = self.numbers()
        numbers = torch.tensor(halves, device=device)
        strata = max(1, limit * self.selected // (self.units * self.unit))
        for first in range(0, self.selected, strata):
            last = min(first + strata, self.selected)
            start = (first * halves[2] >> 32) * self.unit
            stop = (last * halves[2] >> 32) * self.unit
            chosen = unit_positions(torch.arange(first, last, device=device), numbers)
            positions = chosen[:, None] * self.unit + torch.arange(self.unit, device=device)
            yield Piece(
                start, stop, first * self.unit, last * self.unit, positions.view(-1) - start
            )


def unit_positions(strata: Tensor, numbers: Tensor) -> Tensor:
    """The unit that each stratum gives: int64, in the shape of `strata`.

    All products stay below 2^63, so nothing wraps around.

    Args:
        strata: j, int64.
        numbers: `RandomMask.numbers` on the same device, int64.
    """
    first, second, stride = numbers.unbind()
    x = strata ^ first
    x = ((x >> 16) ^ x) * _MIX & _LOW
    x = ((x >> 16) ^ x ^ second) * _MIX & _LOW
    x = ((x >> 15) ^ x) * _MIX & _LOW
    x = (x >> 16) ^ x
    start = strata * stride >> 32
    width = ((strata + 1) * stride >> 32) - start
    return start + (x * width >> 32)


@dataclass(frozen=True)
class StoredMask:
    """A mask that must be kept: bits, or positions where those take fewer bytes.

    Attributes:
        size: entries of the tensor.
        counts: how many are selected in each STRETCH entries; known to the host, they spare it
            from waiting for the device.
        bits: uint8, 8 entries each, the lowest bit first; None if positions are kept.
        positions: int32, ascending; None if bits are kept.
    """

    size: int
    counts: list[int]
    bits: Tensor | None
    positions: Tensor | None

    STRETCH: ClassVar[int] = 1 << 16

    @property
    def count(self) -> int:
        """How many entries are selected."""
        return sum(self.counts)

    @classmethod
    def of(cls, positions: Tensor, size: int) -> StoredMask:
        """The leaner form of these flat positions, which ascend."""
        ends = torch.tensor([*range(0, size, cls.STRETCH), size], device=positions.device)
        borders = torch.searchsorted(positions, ends)
        counts = borders.diff().tolist()
        if positions.numel() * _BITS_PER_POSITION < size:
            return cls(size, counts, None, positions.to(torch.int32))
        bits = torch.empty(-(-size // 8), dtype=torch.uint8, device=positions.device)
        shifts = torch.arange(8, dtype=torch.uint8, device=positions.device)
        for index, chosen in enumerate(torch.split(positions, counts)):
            start = index * cls.STRETCH
            octets = bits[start // 8 : (start + cls.STRETCH) // 8]
            selected = torch.zeros(octets.numel() * 8, dtype=torch.uint8, device=bits.device)
            selected[chosen - start] = 1
            octets.copy_((selected.view(-1, 8) << shifts).sum(dim=1))
        return cls(size, counts, bits, None)

    def pieces(self, limit: int, device: torch.device) -> Iterator[Piece]:
        """The mask in stretches of STRETCH entries, whatever `limit` is."""
        first, shifts = 0, torch.arange(8, dtype=torch.uint8, device=device)
        for index, count in enumerate(self.counts):
            start = index * self.STRETCH
            stop, last = min(start + self.STRETCH, self.size), first + count
            if self.positions is not None:
                chosen = self.positions[first:last].long() - start
            else:
                assert self.bits is not None
                octets = self.bits[start // 8 : -(-stop // 8), None]
                selected = ((octets >> shifts) & 1).view(-1)
                chosen = torch.nonzero_static(selected, size=count).view(-1)
            yield Piece(start, stop, first, last, chosen)
            first = last


Mask = RandomMask | StoredMask


def positions(mask: Mask, device: torch.device) -> Tensor:
    """All flat positions that a mask selects, ascending, int64."""
    pieces = mask.pieces(1 << 24, device)
    return torch.cat([piece.positions + piece.start for piece in pieces])


def to_state(mask: Mask | None, state: State) -> None:
    """Write `mask` into a parameter's state, in plain integers and tensors; None removes it."""
    for key in [key for key in state if key.startswith("mask_")]:
        del state[key]
    if mask is None:
        return
    for name, value in vars(mask).items():
        if value is not None:
            state[f"mask_{name}"] = value


def from_state(state: State) -> Mask | None:
    """The mask of a parameter's state; None where every entry is selected."""
    if "mask_unit" in state:
        names = ("units", "selected", "unit", "seed")
        return RandomMask(*(state[f"mask_{name}"] for name in names))
    if "mask_counts" in state:
        return StoredMask(
            state["mask_size"],
            state["mask_counts"],
            state.get("mask_bits"),
            state.get("mask_positions"),
        )
    return None
