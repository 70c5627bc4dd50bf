"""Counts of gradient spikes in every weight, while it trains: three readings, step by step.

With g_1 ... g_n the gradients of one weight over a window of n steps, the gradient of step t spikes

    by the definition     if |g_t| > threshold * mean(|g_1| ... |g_n|)     (paper, Definition P.1)
    by a running average  if |g_t| > threshold * mean(|g_1| ... |g_t|)
    by SPAM's criterion   if g_t^2 > theta * v, v > 0, v as step t - 1 left it

The last two need one sum a weight. The definition looks ahead, and is exact in one pass all the
same: sums only grow, so a gradient that is not above threshold / n of the sum so far never spikes
and is forgotten. Fewer than n / threshold gradients of a weight can be above at once, whatever the
data, and that bounds what must be kept. It promises the exact counts of these formulas in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from spam_lab.optim.entry_moments import spikes_by_moment

STRETCH = {"cpu": 1 << 16, "cuda": 1 << 24}
"""Weights looked at together, so that temporaries are small."""

PIECES = 64
"""Arrays of candidates a tensor, on average, that are joined at the latest."""


@dataclass
class Candidates:
    """Gradients of one tensor that may turn out to spike: three arrays of one length.

    Attributes:
        steps: int32.
        indices: flat positions in the tensor, int32.
        magnitudes: |g|, in the dtype of the gradients.
    """

    steps: Tensor
    indices: Tensor
    magnitudes: Tensor

    def above(self, sums: Tensor, threshold: float, steps: int) -> Candidates:
        """Those whose score would be above `threshold` if the window had ended with `sums`."""
        level = self.magnitudes.float() * steps
        kept = level > sums[self.indices.long()] * threshold
        return Candidates(self.steps[kept], self.indices[kept], self.magnitudes[kept])

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three."""
        return self.steps, self.indices, self.magnitudes


class SpikeCounts:
    """The counts of a window of steps.

    Args:
        parameters: the tensors, on one device.
        window: steps in the window, counted from 1.
        thresholds: of the scores.
        theta: of SPAM's criterion.
        definition: whether to count by the definition too.

    Attributes:
        counts: int32, (window, tensors, thresholds + 2): spikes by the running average at each
            threshold, by SPAM's criterion, and the entries that it could look at.
        peak_bytes: the most that has been held for all this, temporaries left out.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        window: int,
        thresholds: Sequence[float],
        theta: float,
        definition: bool,
    ) -> None:
        self._parameters, self._window = list(parameters), window
        self._thresholds, self._theta, self._definition = list(thresholds), theta, definition
        device = self._parameters[0].device
        self._sums = [
            torch.zeros(p.numel(), dtype=torch.float32, device=device) for p in self._parameters
        ]
        shape = (window, len(self._parameters), len(self._thresholds) + 2)
        self.counts = torch.zeros(shape, dtype=torch.int32, device=device)
        self._candidates: list[list[Candidates]] = [[] for _ in self._parameters]
        self.peak_bytes = 0
        self._prune()

    @torch.no_grad()
    def add(self, step: int, optimizer: Optimizer) -> None:
        """Count one step, from the gradients and what the optimizer knew before it.

        A parameter without a gradient has gradients of zero.
        """
        for number, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                continue
            row = self.counts[step - 1, number]
            self._add(step, number, parameter.grad.reshape(-1), row)
            found = spikes_by_moment(optimizer, parameter, parameter.grad, self._theta)
            if found is not None:
                row[-2], row[-1] = found
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        if self._held > self._limit or self._pieces > PIECES * len(self._parameters):
            self._prune()

    def definition(self, steps: int) -> Tensor | None:
        """Counts by the definition, if the window ends after `steps`: int64 on the CPU, (steps,
        tensors, thresholds); None where they are not wanted."""
        if not self._definition:
            return None
        shape = (steps, len(self._parameters), len(self._thresholds))
        counts = torch.zeros(shape, dtype=torch.int64)
        for number, sums in enumerate(self._sums):
            for column, threshold in enumerate(self._thresholds):
                for kept in self._candidates[number]:
                    found = kept.above(sums, threshold, steps).steps - 1
                    counts[:, number, column] += torch.bincount(found, minlength=steps).cpu()
        return counts

    @property
    def bytes(self) -> int:
        """What is held now."""
        whole = sum(t.numel() * t.element_size() for t in (*self._sums, self.counts))
        return whole + self._held * (8 + self._parameters[0].element_size())

    def state_dict(self, steps: int) -> dict[str, Any]:
        """What the first `steps` leave, on the CPU."""
        self._prune()
        return {
            "sums": [sums.cpu() for sums in self._sums],
            "counts": self.counts[:steps].cpu(),
            "candidates": [
                (number, *(tensor.cpu() for tensor in kept.tensors))
                for number, kept in self._kept()
            ],
            "peak_bytes": self.peak_bytes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for sums, saved in zip(self._sums, state["sums"], strict=True):
            sums.copy_(saved)
        self.counts[: len(state["counts"])] = state["counts"].to(self.counts.device)
        self._candidates = [[] for _ in self._parameters]
        for number, *tensors in state["candidates"]:
            kept = Candidates(*(tensor.to(self.counts.device) for tensor in tensors))
            self._candidates[number].append(kept)
        self.peak_bytes = state["peak_bytes"]
        self._prune()

    def _add(self, step: int, number: int, gradient: Tensor, row: Tensor) -> None:
        """Count the running average's spikes in one tensor, and keep what may spike later.

        Whatever spikes by either reading is above the lowest threshold of the longest sum; it is
        little, and all else is looked at once.
        """
        length = STRETCH["cpu" if gradient.device.type == "cpu" else "cuda"]
        lowest, longest = min(self._thresholds), self._window if self._definition else step
        for start in range(0, gradient.numel(), length):
            magnitudes = gradient[start : start + length].abs()
            level = magnitudes.float()
            sums = self._sums[number][start : start + length].add_(level)
            if longest <= lowest:  # a score over so many steps is at most their number
                continue
            found = (level * longest > sums * lowest).nonzero().view(-1)
            if not found.numel():
                continue
            level, sums = level[found] * step, sums[found]
            for column, threshold in enumerate(self._thresholds):
                if step > threshold:
                    row[column] += (level > sums * threshold).sum()
            if self._definition:
                steps = torch.full_like(found, step, dtype=torch.int32)
                indices = (found + start).to(torch.int32)
                self._candidates[number].append(Candidates(steps, indices, magnitudes[found]))
                self._held += found.numel()
                self._pieces += 1

    def _prune(self) -> None:
        """Forget gradients that can spike no more, and join what is left."""
        for number, pieces in enumerate(self._candidates):
            if pieces:
                joined = Candidates(
                    *(torch.cat(parts) for parts in zip(*(p.tensors for p in pieces), strict=True))
                )
                lowest = min(self._thresholds)
                self._candidates[number] = [joined.above(self._sums[number], lowest, self._window)]
        self._held = sum(kept.steps.numel() for _, kept in self._kept())
        self._pieces = len(self._candidates)
        # So that pruning costs a bounded part of adding.
        self._limit = self._held * 3 // 2 + 2 * sum(sums.numel() for sums in self._sums)

    def _kept(self) -> Iterator[tuple[int, Candidates]]:
        for number, pieces in enumerate(self._candidates):
            for kept in pieces:
                yield number, kept
