"""The memory of methods as their own code takes it, beside what the paper prints (Table 3).

Counted by the laboratory's account (`spam_lab.train.memory`): the optimizer of the very config is
built and takes steps, and the bytes of its weights and state are added up. Two accounts: of the run
as configured, and of the same method at the paper's size in bfloat16, which is what the paper's
gigabytes are about. It promises bytes that were counted, never a formula, with one exception that
is named: the mask of the public code, one byte for every weight that may be sparse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spam_lab.config.compose import compose_run
from spam_lab.config.identity import cell_id
from spam_lab.optim.methods.spam import SPARSE_KINDS

if TYPE_CHECKING:
    from spam_lab.config.schema import RunConfig
    from spam_lab.orchestrate.grid import Value

PAPER_SETTING = ("scale=paper", "data=c4", "precision=bf16")


@dataclass(frozen=True)
class Bytes:
    """One account, in bytes; `mask` is what the public code would keep beside."""

    weights: int
    moments: int
    projectors: int
    other: int
    mask: int

    @property
    def total(self) -> int:
        """Weights and state, as the paper counts: no gradients, no activations, no public mask."""
        return self.weights + self.moments + self.projectors + self.other


def measured(config: RunConfig, known: dict[str, Any]) -> Bytes:
    """The account of one run's config; what was counted is in `known`, by cell, and is added to it.

    Counting loads torch and takes seconds; `kept` is where `known` comes from and goes to.
    """
    key = cell_id(config)
    if key not in known:
        known[key] = dataclasses.asdict(_count(config))
    return Bytes(**known[key])


def at_paper_size(overrides: Mapping[str, Value], known: dict[str, Any]) -> Bytes:
    """The account of a cell's overrides at the paper's size, in bfloat16; `known` as above."""
    return measured(compose_run(PAPER_SETTING, overrides), known)


def _count(config: RunConfig) -> Bytes:
    # Late: it loads torch, which no other part of an exhibit needs.
    from spam_lab.train.memory import run_memory, run_shapes

    counted = run_memory(config)
    mask = 0
    if getattr(config.optimizer, "density", 1.0) < 1:
        shapes, _ = run_shapes(config)
        for _, kind, shape in shapes:
            if kind in SPARSE_KINDS and len(shape) == 2:
                mask += shape[0] * shape[1]
    return Bytes(
        weights=counted.weights,
        moments=counted.of("moments"),
        projectors=counted.of("projectors"),
        other=counted.of("other") + counted.of("masks"),
        mask=mask,
    )
