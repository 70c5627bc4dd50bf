"""How the entries of a tensor that have moments are chosen: the masks of sparse momentum.

This module owns the selection rules (paper Sections 3 and R, Figure 9-1) and the seeding of the
random ones. It promises exact counts, and random masks that depend on the seed, the parameter's
position and the number of the draw alone: not on the rank, the device, the order in which
parameters are visited, another optimizer or the global random state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from spam_lab.optim.largest import largest
from spam_lab.optim.mask import BLOCK, Mask, RandomMask, StoredMask

Selection = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""`(param, grad, density, generator) -> mask`: a bool tensor in the shape of `param`."""

RULES = ("random", "random_block", "random_row", "weight_magnitude", "gradient_magnitude")
"""The rules by name. The random ones take no memory.

random: entries, the paper's choice. Algorithm 1 draws each with probability d, the reference code
draws an exact count at the start and probabilities later. Here the count is always exact and the
draw is stratified (`mask`), so that memory never moves and no mask is stored.
random_block: blocks of 64 entries that follow each other, as far as a tensor divides by it.
random_row: rows of a matrix, that is, all that feeds one output.
weight_magnitude, gradient_magnitude: the largest |w|, or |g| of the step that draws. Of equals, the
ones that come first.
"""

_INT32_MAX = 2**31 - 1


def choose(
    rule: str | Selection,
    param: Tensor,
    grad: Tensor,
    density: float,
    seed: int,
    index: int,
    draw: int,
) -> Mask:
    """The mask that `rule` selects.

    Args:
        rule: one of `RULES`, or the caller's own.
        param: the parameter.
        grad: its gradient at this step.
        density: the share d of entries to select, in (0, 1]. Of n entries (or blocks, or rows)
            floor(d n) are selected, but at least one.
        seed: the optimizer's seed.
        index: the parameter's position in the optimizer, which fixes its stream of masks.
        draw: how many resets came before: 0 at the start.

    Raises:
        ValueError: if a rule returns anything but a bool mask in the shape of the parameter, or
            for a tensor of 2^31 entries or more.
    """
    if param.numel() > _INT32_MAX:
        raise ValueError(
            f"density={density} is not allowed for a tensor of {param.numel()} entries: "
            f"at most {_INT32_MAX}, or density=1"
        )
    drawn = stream_seed(seed, index, draw)
    if callable(rule):
        generator = torch.Generator().manual_seed(drawn)
        return StoredMask.of(
            _positions(rule(param, grad, density, generator), param), param.numel()
        )
    if rule.startswith("random"):
        unit = _unit(rule, param)
        units = param.numel() // unit
        return RandomMask(units, max(1, int(density * units)), unit, drawn >> 1)
    values = param if rule == "weight_magnitude" else grad
    count = max(1, int(density * param.numel()))
    return StoredMask.of(largest(values.detach(), count), param.numel())


def stream_seed(seed: int, index: int, draw: int, purpose: str = "mask") -> int:
    """A 63-bit seed that is the same on every machine and unrelated between draws and purposes."""
    digest = hashlib.sha256(f"spam {purpose} {seed} {index} {draw}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _unit(rule: str, param: Tensor) -> int:
    """Entries that are selected together."""
    if rule == "random_block":
        unit = BLOCK
        while param.numel() % unit:
            unit //= 2
        return unit
    if rule == "random_row" and param.dim() > 1:
        return param.numel() // param.shape[0]
    return 1


def _positions(mask: Tensor, param: Tensor) -> Tensor:
    """The flat positions of a caller's mask, ascending, once it is a mask."""
    if mask.dtype != torch.bool or mask.shape != param.shape:
        raise ValueError(
            f"selection returned a {mask.dtype} mask of shape {tuple(mask.shape)}: "
            f"allowed is torch.bool of shape {tuple(param.shape)}"
        )
    return mask.to(param.device).flatten().nonzero().flatten()
