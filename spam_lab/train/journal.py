"""What the loop tells the outside: metrics a step, kept on the device until they are written.

`StepLog` collects each step's loss, gradient norm and the optimizer's telemetry as tensors and
turns them into numbers in one transfer per write, so that logging every step never makes the
processor wait for the accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from spam_lab.optim.telemetry import Telemetry


class Journal(Protocol):
    """Where metrics go: the run directory's metric log, or a list in a test."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step."""

    def flush(self, durable: bool = False) -> None:
        """Write what was taken; `durable` also waits for the disk."""


class Silent:
    """The journal of a rank that only computes."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Rank 0 keeps them."""

    def flush(self, durable: bool = False) -> None:
        """Nothing was taken."""


Reduce = Callable[[torch.Tensor, list[int]], tuple[list[list[float]], list[int]]]
"""Rows of (loss, gradient norm, counts...) and entries examined, of this rank, to those of all."""


@dataclass
class StepLog:
    """The steps since the last write.

    `reduce` brings in the other ranks, at a write; `clipped_total` counts clipped entries since
    step 0; `last_loss` is the last one written.
    """

    reduce: Reduce
    clipped_total: int = 0
    last_loss: float | None = None
    _steps: list[int] = field(default_factory=list)
    _tensors: list[torch.Tensor] = field(default_factory=list)
    _known: list[dict[str, float]] = field(default_factory=list)
    _telemetry: list[Telemetry | None] = field(default_factory=list)

    def add(
        self,
        step: int,
        loss: torch.Tensor,
        grad_norm: torch.Tensor,
        known: dict[str, float],
        telemetry: Telemetry | None,
    ) -> None:
        """Keep one step. `known` are numbers that need no transfer (learning rate, speed)."""
        parts = [loss.detach().double().reshape(1), grad_norm.detach().double().reshape(1)]
        if telemetry is not None:
            parts.append(telemetry.clipped.detach().double())
        self._steps.append(step)
        self._tensors.append(torch.cat(parts))
        self._known.append(known)
        self._telemetry.append(telemetry)

    def write(self, journal: Journal) -> tuple[int, float] | None:
        """Write the kept steps; stop at the first whose loss is not finite and return it.

        Returns:
            (step, loss) of that first step, or None where every loss is finite. Steps after it are
            dropped: their weights are no longer a model.
        """
        rows: list[list[float]] = []
        entries = [0 if told is None else told.entries for told in self._telemetry]
        if self._tensors:
            rows, entries = self.reduce(torch.stack(self._tensors), entries)
        diverged = None
        for step, row, known, telemetry, examined in zip(
            self._steps, rows, self._known, self._telemetry, entries, strict=True
        ):
            loss, grad_norm, *clipped = row
            values = {"train/loss": loss, "train/grad_norm": grad_norm, **known}
            if telemetry is not None:
                values |= self._spam_values(telemetry, clipped, examined)
            journal.add(step, values)
            self.last_loss = loss
            if not math.isfinite(loss):
                diverged = (step, loss)
                break
        for kept in (self._steps, self._tensors, self._known, self._telemetry):
            kept.clear()
        return diverged

    def _spam_values(
        self, telemetry: Telemetry, clipped: list[float], examined: int
    ) -> dict[str, float]:
        self.clipped_total += int(sum(clipped))
        by_kind = {
            f"spam/clipped/{kind}": count
            for kind, count in zip(telemetry.kinds, clipped, strict=True)
        }
        return {
            **by_kind,
            "spam/clipped_fraction": sum(clipped) / max(1, examined),
            "spam/clipped_total": self.clipped_total,
            "spam/warmup_scale": telemetry.warmup_scale,
            "spam/resets": telemetry.resets,
        }
