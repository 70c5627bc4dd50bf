"""Which entries of a tensor have moments: the masks of sparse momentum.

This module owns the selection rules (paper Sections 3 and R, Figure 9-1) and the seeding of the
random one. It promises exact counts, and random masks that depend on the seed, the parameter's
position and the number of the draw alone: not on the rank, the device, the order in which
parameters are visited, another optimizer or the global random state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

Selection = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""`(param, grad, density, generator) -> mask`: a bool tensor in the shape of `param`."""

_INT32_MAX = 2**31 - 1


def random(param: Tensor, grad: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Entries drawn without replacement: the paper's choice.

    Algorithm 1 draws each entry with probability d; the reference code draws an exact count at
    the start and probabilities later. Here the count is always exact, so memory never moves.
    """
    order = torch.randperm(param.numel(), generator=generator)
    return _mask(param, order[: _count(param, density)])


def weight_magnitude(
    param: Tensor, grad: Tensor, density: float, generator: torch.Generator
) -> Tensor:
    """The largest |w|. Of equals, the ones that come first."""
    return _largest(param, density)


def gradient_magnitude(
    param: Tensor, grad: Tensor, density: float, generator: torch.Generator
) -> Tensor:
    """The largest |g| of the step that draws. Of equals, the ones that come first."""
    return _largest(grad, density)


RULES: dict[str, Selection] = {
    "random": random,
    "weight_magnitude": weight_magnitude,
    "gradient_magnitude": gradient_magnitude,
}


def choose(
    rule: Selection, param: Tensor, grad: Tensor, density: float, seed: int, index: int, draw: int
) -> Tensor:
    """The flat positions that `rule` selects, ascending.

    Args:
        rule: one of `RULES`, or the caller's own.
        param: the parameter.
        grad: its gradient at this step.
        density: the share d of entries to select, in (0, 1].
        seed: the optimizer's seed.
        index: the parameter's position in the optimizer, which fixes its stream of masks.
        draw: how many resets came before: 0 at the start.

    Returns:
        int32 positions: 4 d bytes an entry, where a dense mask would take 1.

    Raises:
        ValueError: if a rule returns anything but a bool mask in the shape of the parameter.
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, index, draw))
    mask = rule(param, grad, density, generator)
    if mask.dtype != torch.bool or mask.shape != param.shape:
        raise ValueError(
            f"selection returned a {mask.dtype} mask of shape {tuple(mask.shape)}: "
            f"allowed is torch.bool of shape {tuple(param.shape)}"
        )
    positions = mask.to(param.device).flatten().nonzero().flatten()
    return positions.to(torch.int32) if param.numel() <= _INT32_MAX else positions


def stream_seed(seed: int, index: int, draw: int) -> int:
    """A 63-bit seed that is the same on every machine and unrelated between draws."""
    digest = hashlib.sha256(f"spam mask {seed} {index} {draw}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _count(param: Tensor, density: float) -> int:
    """How many entries: d of them, rounded down, but at least one."""
    return max(1, int(density * param.numel()))


def _largest(values: Tensor, density: float) -> Tensor:
    """The mask of the largest magnitudes; the stable sort makes ties the same everywhere."""
    order = values.abs().flatten().sort(descending=True, stable=True).indices
    return _mask(values, order[: _count(values, density)])


def _mask(like: Tensor, positions: Tensor) -> Tensor:
    """A mask in the shape of `like`, true at these flat positions."""
    mask = torch.zeros(like.numel(), dtype=torch.bool, device=positions.device)
    mask[positions] = True
    return mask.view(like.shape)
