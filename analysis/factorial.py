"""Effects of a two-level factorial over paired seeds: main effects and all interactions.

The loss of a combination of levels is a cell. In the standard definition of the design of
experiments, the effect of a set of factors is the mean over the combinations with an even number of
its factors off, minus the mean over the others: for one factor, on minus off, averaged over all
others; for two, half of what one changes in the effect of the other. Below zero, it lowers the
loss. Every effect is worked out within each seed, so that what a seed adds to all cells drops out
(the seed is a block), and the t interval is over the seeds' effects: the linear model with a
seed-by-effect error, which supposes equal variances neither of cells nor of effects. Holm's
correction is over all effects of the factorial. A seed with a gap in any cell gives no effects;
`stats.compare` says what gaps and divergence decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from analysis.stats import Cell, Comparison, compare, corrected

Levels = tuple[bool, ...]
"""Which factors are on, in the order of the factors."""


@dataclass(frozen=True)
class Effect:
    """The effect of `factors` together, in loss: `comparison.difference` is its estimate."""

    factors: tuple[str, ...]
    comparison: Comparison

    @property
    def name(self) -> str:
        """The factor, or the factors of an interaction."""
        return " × ".join(self.factors)


def effects(
    factors: Sequence[str],
    cells: Mapping[Levels, Cell],
    only: str | None = None,
) -> list[Effect]:
    """Every effect of a full factorial; with `only`, those in which that factor takes part.

    Not yet corrected: several factorials may be one family (`holm_over`). Two combinations may be
    the same cell, if there is no more than one way to run them.

    Raises:
        ValueError: a combination of levels has no cell.
    """
    if len(cells) != 2 ** len(factors):
        raise ValueError(f"{len(cells)} cells are not a full factorial of {len(factors)} factors")
    found = []
    for size in range(1, len(factors) + 1):
        for chosen in combinations(range(len(factors)), size):
            names = tuple(factors[index] for index in chosen)
            if only is None or only in names:
                found.append(Effect(names, _contrast(names, chosen, cells)))
    return found


def holm_over(found: Sequence[Effect]) -> list[Effect]:
    """The effects with Holm's correction over all of them."""
    tested = corrected([effect.comparison for effect in found])
    return [Effect(one.factors, test) for one, test in zip(found, tested, strict=True)]


def pooled(name: str, cells: Sequence[Cell]) -> Cell:
    """The mean of several cells within each seed, as one cell.

    A seed that diverged in any of them has diverged, and one that is incomplete in any is so.
    """
    seeds = {seed for cell in cells for seed in (*cell.losses, *cell.diverged, *cell.incomplete)}
    diverged = frozenset(seed for cell in cells for seed in cell.diverged)
    incomplete = {
        seed: next((c.incomplete[seed] for c in cells if seed in c.incomplete), "missing")
        for seed in sorted(seeds - diverged)
        if any(seed not in cell.losses for cell in cells)
    }
    whole = sorted(seeds - diverged - incomplete.keys())
    losses = {seed: sum(cell.losses[seed] for cell in cells) / len(cells) for seed in whole}
    return Cell(name, "", losses, diverged, incomplete)


def _contrast(
    names: Sequence[str], chosen: Sequence[int], cells: Mapping[Levels, Cell]
) -> Comparison:
    """The combinations with an even number of the chosen factors off, against the others."""
    sides: dict[bool, list[Cell]] = {True: [], False: []}
    for levels, cell in cells.items():
        off = sum(not levels[index] for index in chosen)
        sides[off % 2 == 0].append(cell)
    if len(names) == 1:
        words = (f"with {names[0]}", f"without {names[0]}")
    else:
        words = (f"an even number of {', '.join(names)} off", "an odd number off")
    return compare(pooled(words[0], sides[True]), pooled(words[1], sides[False]))
