"""Claims and their answers: holds, fails or undecided, from a stated test. Most are the paper's; a
claim of this laboratory's own says that it is.

A claim is composed of comparisons between cells. `every_pair` answers claims of the form "A is
better than B, and than C"; `best_within` answers "the best value lies in this range". Both correct
for the number of comparisons (`stats.corrected`), list every one with its numbers, and never turn
a lack of data into an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.stats import Cell, Comparison, Verdict, all_of, compare, corrected


@dataclass(frozen=True)
class Claim:
    """One statement that the paper draws from an exhibit, and where it says so.

    `own` marks a question of this laboratory, which the paper does not ask or not in this form;
    `source` then says what the paper has to do with it.
    """

    key: str
    text: str
    source: str
    own: bool = False


@dataclass(frozen=True)
class Part:
    """One comparison behind an answer, in words and numbers."""

    text: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Answer:
    """What the runs say of a claim, by which test, and where the best mean lies.

    `tested` are the comparisons of a claim that is about another measure than the loss, and that
    stand in no `comparisons`. `is_ratio` says whether what they compare are logarithms, as losses
    are of perplexities, so that a difference is a ratio.
    """

    claim: Claim
    verdict: Verdict
    test: str
    detail: str
    parts: tuple[Part, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    tested: tuple[Comparison, ...] = ()
    is_ratio: bool = True

    @property
    def behind(self) -> tuple[Comparison, ...]:
        """Every comparison behind the verdict."""
        return self.comparisons or self.tested


def every_pair(
    claim: Claim, pairs: Sequence[tuple[Cell, Cell]], among: Sequence[Cell] = ()
) -> Answer:
    """The first cell of every pair has the lower loss. The best mean of `among` is told."""
    tested = corrected([compare(better, worse) for better, worse in pairs])
    verdict = all_of([comparison.verdict for comparison in tested])
    rule = "holds if every pair holds, fails if any fails" if len(tested) > 1 else ""
    return Answer(
        claim,
        verdict,
        _test(len(tested), rule),
        best_mean(among),
        tuple(_part(comparison, len(tested)) for comparison in tested),
        tuple(tested),
    )


def best_within(claim: Claim, inside: Sequence[Cell], outside: Sequence[Cell]) -> Answer:
    """The best cell is one of `inside`.

    Holds if some cell inside is better than every cell outside; fails if some cell outside is
    better than every cell inside.
    """
    tested = corrected([compare(good, bad) for good in inside for bad in outside])

    def all_are(verdict: Verdict, chosen: Sequence[Comparison]) -> bool:
        return bool(chosen) and all(comparison.verdict is verdict for comparison in chosen)

    verdict = Verdict.UNDECIDED
    if any(all_are(Verdict.HOLDS, [c for c in tested if c.better is cell]) for cell in inside):
        verdict = Verdict.HOLDS
    elif any(all_are(Verdict.FAILS, [c for c in tested if c.worse is cell]) for cell in outside):
        verdict = Verdict.FAILS
    rule = (
        "holds if a value inside the range is better than every value outside it, fails if a "
        "value outside is better than every value inside"
    )
    return Answer(
        claim,
        verdict,
        _test(len(tested), rule),
        best_mean([*inside, *outside]),
        tuple(_part(comparison, len(tested)) for comparison in tested),
        tuple(tested),
    )


def best_mean(cells: Sequence[Cell]) -> str:
    """Where the lowest mean perplexity of the complete cells lies: a description, not a test."""
    known = [
        (cell.perplexity.mean, cell.name)
        for cell in cells
        if cell.perplexity and not cell.incomplete
    ]
    if not known:
        return ""
    mean, name = min(known)
    among = "" if len(known) == len(cells) else f" of {len(known)} complete of {len(cells)} cells"
    return f"lowest mean perplexity{among}: {name} ({mean:.2f}); a description, not a test"


def _test(count: int, rule: str) -> str:
    test = "paired t test on the loss over common seeds, two-sided 95 %"
    if count > 1:
        test += f", Holm over {count} comparisons"
    return f"{test}; {rule}" if rule else test


def _part(comparison: Comparison, count: int) -> Part:
    text = f"{comparison.better.name} is better than {comparison.worse.name}"
    difference = comparison.difference
    if difference is None:
        return Part(text, comparison.verdict, comparison.reason)
    detail = (
        f"difference in loss {difference.mean:+.4f} [{difference.low:+.4f}, "
        f"{difference.high:+.4f}], perplexity ratio {difference.ratio:.4f}, "
        f"{_shown_effect(difference.effect)}n={difference.n}, p{_shown_p(difference.p)}"
    )
    if count > 1:
        detail += f", Holm p{_shown_p(comparison.adjusted_p)}"
    return Part(text, comparison.verdict, detail)


def _shown_effect(effect: float) -> str:
    return "" if math.isnan(effect) else f"d_z {effect:+.2f}, "


def _shown_p(p: float) -> str:
    return "<0.0001" if p < 1e-4 else f"={p:.4f}"
