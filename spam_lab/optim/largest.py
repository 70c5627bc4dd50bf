"""The k largest magnitudes of a tensor, found without sorting it.

This module owns the selection by size, as a radix search: one pass over the values for each 16 bits
of their format, and one to list the positions. It promises the exact set, earlier entries first
among equals, the same on every device, and temporaries no longer than a stretch of the tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STRETCH = 1 << 18
_DIGITS = 1 << 16


def largest(values: Tensor, count: int) -> Tensor:
    """Flat positions of the `count` largest |value|, ascending, int64. NaN counts as the largest.

    Args:
        values: any floating-point tensor.
        count: from 1 to the number of entries.
    """
    flat = values.reshape(-1)
    border, ties = _border(flat, count)
    chosen = []
    for index, stretch in enumerate(torch.split(flat, _STRETCH)):
        bits = _bits(stretch)
        equal = bits == border
        first_equals = equal & (equal.cumsum(0) <= ties)
        chosen.append(((bits > border) | first_equals).nonzero().view(-1) + index * _STRETCH)
        ties -= int(first_equals.sum())
    return torch.cat(chosen)


def _border(flat: Tensor, count: int) -> tuple[int, int]:
    """The bits of the smallest magnitude chosen, and how many entries of exactly that one are."""
    border, remaining = 0, count
    width = 64 if flat.dtype == torch.float64 else 32
    for shift in range(width - 16, -1, -16):
        histogram = torch.zeros(_DIGITS, dtype=torch.int64, device=flat.device)
        for stretch in torch.split(flat, _STRETCH):
            bits = _bits(stretch)
            alike = bits[bits >> (shift + 16) == border] if shift < width - 16 else bits
            histogram += torch.bincount((alike >> shift) & (_DIGITS - 1), minlength=_DIGITS)
        from_the_top = histogram.flip(0).cumsum(0)
        above = int((from_the_top < remaining).sum())
        remaining -= int(from_the_top[above - 1]) if above else 0
        border = border << 16 | (_DIGITS - 1 - above)
    return border, remaining


def _bits(stretch: Tensor) -> Tensor:
    """Magnitudes as integers in the same order: the formats of IEEE 754 are made for that."""
    if stretch.dtype == torch.float64:
        return stretch.abs().view(torch.int64)
    return stretch.float().abs().view(torch.int32).long()
