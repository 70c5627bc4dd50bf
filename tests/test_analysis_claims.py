"""Answers to claims: composites, ranges, their words, and what the paper published."""

from __future__ import annotations

import pytest

from analysis import paper
from analysis.claims import Claim, best_mean, best_within, every_pair
from analysis.stats import Cell, Verdict

CLAIM = Claim("key", "text", "source")


def cell(name: str, level: float) -> Cell:
    """Three seeds around a level, with seed effects that cells share and a small own wobble."""
    wobble = (sum(map(ord, name)) % 5 - 2) * 1e-4
    return Cell(name, name, {0: level - 0.02 + wobble, 1: level, 2: level + 0.02 - 2 * wobble})


def test_every_pair_must_hold() -> None:
    a, b, c = cell("a", 3.0), cell("b", 3.2), cell("c", 2.9)
    assert every_pair(CLAIM, [(a, b)]).verdict is Verdict.HOLDS
    assert every_pair(CLAIM, [(a, b), (a, c)]).verdict is Verdict.FAILS
    gap = Cell("gap", "gap", {0: 3.4, 1: 3.4}, incomplete={2: "running"})
    answer = every_pair(CLAIM, [(a, b), (a, gap)], among=[a, b, gap])
    assert answer.verdict is Verdict.UNDECIDED
    assert [part.verdict for part in answer.parts] == [Verdict.HOLDS, Verdict.UNDECIDED]
    assert answer.parts[1].detail == "1 of 3 runs of gap are running"
    assert "Holm over 2 comparisons" in answer.test
    assert answer.detail.startswith("lowest mean perplexity of 2 complete of 3 cells: a (20.09)")


def test_numbers_of_a_comparison_are_printed() -> None:
    first = Cell("a", "a", {0: 3.0, 1: 3.1, 2: 3.2})
    second = Cell("b", "b", {0: 3.1, 1: 3.3, 2: 3.5})
    detail = every_pair(CLAIM, [(first, second)]).parts[0].detail
    # Differences -0.1, -0.2, -0.3: mean -0.2, half-width 4.302653 * 0.1 / sqrt(3) = 0.2484;
    # d_z is -2, and times 1 / sqrt(pi) = 0.5642, Hedges' correction for two degrees of freedom.
    assert detail == (
        "difference in loss -0.2000 [-0.4484, +0.0484], perplexity ratio 0.8187, "
        "d_z -1.13, n=3, p=0.0742"
    )


def test_best_within_a_range() -> None:
    good, fair, bad = cell("good", 2.5), cell("fair", 3.0), cell("bad", 3.5)
    assert best_within(CLAIM, [good, fair], [bad]).verdict is Verdict.HOLDS
    assert best_within(CLAIM, [bad, fair], [good]).verdict is Verdict.FAILS
    # One value inside is enough to hold, one outside is enough to fail.
    assert best_within(CLAIM, [good, bad], [fair]).verdict is Verdict.HOLDS
    assert best_within(CLAIM, [fair], [bad, good]).verdict is Verdict.FAILS
    same = Cell("same", "same", dict(cell("good", 2.5).losses))
    assert best_within(CLAIM, [good], [same, bad]).verdict is Verdict.UNDECIDED


def test_best_mean_says_how_many_cells_it_knows() -> None:
    known, unknown = cell("a", 3.0), Cell("b", "b", diverged=frozenset({0, 1}))
    assert "of 1 complete of 2 cells: a" in best_mean([known, unknown])
    assert best_mean([unknown]) == ""


@pytest.mark.parametrize(
    ("name", "best", "adam"),
    [
        ("llama_60m", (5000, "30.46"), "34.09"),
        ("pythia_70m", (1000, "34.1"), "38.34"),
        ("opt_125m", (1000, "28.4"), "32.20"),
    ],
)
def test_published_table10(name: str, best: tuple[int, str], adam: str) -> None:
    values = paper.TABLE10[name]
    lowest = min(paper.TABLE10_THETA, key=lambda theta: float(values[theta]))
    assert (lowest, values[lowest]) == best
    assert values["adam"] == adam
    assert len(values) == 6


def test_every_claim_names_its_source() -> None:
    claims = [
        *paper.FIGURE9.values(),
        paper.table10_best_theta("llama_60m"),
        paper.table10_beats_adam("opt_125m"),
    ]
    assert all("Appendix" in claim.source and "“" in claim.source for claim in claims)
    assert len({claim.key for claim in claims}) == len(claims)
