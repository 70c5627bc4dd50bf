"""Clipping of whole gradients, before any optimizer sees them: the paper's two baselines.

This module owns value clipping and norm clipping (paper Table 1), which the training loop applies
for every method. It promises their order, value first, and never makes the host wait.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_


def clip_gradients(parameters: Iterable[Tensor], value: float | None, norm: float | None) -> None:
    """Clip the gradients in place.

    Args:
        parameters: parameters; those without a gradient are skipped.
        value: clamp every entry to +-value (paper: 1e-3); None does not.
        norm: then multiply all gradients by min(1, norm / (their joint L2 norm + 1e-6)) (paper:
            1.0); None does not.
    """
    parameters = list(parameters)
    if value is not None:
        clip_grad_value_(parameters, value)
    if norm is not None:
        clip_grad_norm_(parameters, norm)
