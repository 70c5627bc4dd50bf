"""The claims ledger: what stands in it, and the corrections over all claims, beside other ways to
work them out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from analysis import document, mechanism
from analysis import ledger as ledgers
from analysis.assembly import Assembled, Scale, natural
from analysis.claims import Answer, Claim, every_pair
from analysis.exhibit import Exhibit
from analysis.ledger import Ledger, ledger_of
from analysis.spikes import fewer
from analysis.stats import Cell, Verdict
from tests.analysis_store import NANO


def cell(name: str, *losses: float, seeds: int = 3) -> Cell:
    """A cell with these losses, and the rest of its seeds missing."""
    missing = range(len(losses), seeds)
    return Cell(
        name, f"cell {name}", dict(enumerate(losses)), incomplete=dict.fromkeys(missing, "missing")
    )


def frame_of(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a run, as the record gives them."""
    rows = [
        {
            "run_id": f"{one.name}{seed}",
            "cell_id": one.cell_id,
            "seed": seed,
            "state": "done" if seed in one.losses else one.incomplete.get(seed, "diverged"),
        }
        for one in cells
        for seed in [*one.losses, *one.diverged, *one.incomplete]
    ]
    return pd.DataFrame(rows)


def assembled(name: str, answers: Sequence[Answer], cells: Sequence[Cell]) -> Assembled:
    frame = frame_of(cells)
    exhibit = Exhibit(name, name, "", Figure(), frame, tuple(answers), ())
    return Assembled(name, "?", "nano", f"launch {name}", "make", frame, exhibit)


def ledger(*exhibits: Assembled) -> Ledger:
    return ledger_of([Scale(NANO, exhibits, {})])


GOOD, BAD = cell("good", 3.0, 3.1, 3.2), cell("bad", 3.5, 3.61, 3.69)
NEAR, EMPTY, GONE = cell("near", 3.1, 2.9, 3.3), cell("empty"), cell("gone")
LOST = Cell("lost", "cell lost", diverged=frozenset({0, 1, 2}))


def claim(key: str) -> Claim:
    return Claim(key, f"the claim {key}", "Table 0")


def test_a_claim_on_spikes_is_corrected_and_its_differences_are_no_ratios() -> None:
    """Counts of thousands, whose exponential is no number."""
    few, many = cell("few", 10.0, 11.0, 12.0), cell("many", 5000.0, 5001.5, 5003.0)
    as_counts = fewer(claim("counts"), [(few, many)], "<", of="spikes")
    as_ratios = fewer(claim("ratios"), [(GOOD, BAD)], "<")
    made = assembled("table0", [as_counts, as_ratios], [few, many, GOOD, BAD])
    counts, ratios = ledger(made).lines
    assert counts.effect.startswith("difference -4990")
    assert ratios.effect.startswith("ratio 0.6")
    for line, answer in ((counts, as_counts), (ratios, as_ratios)):
        assert line.verdict == "holds" and line.p == answer.tested[0].adjusted_p <= line.p_holm
        assert len(line.run_ids) == 6
    first = min(counts, ratios, key=lambda line: line.p)
    assert first.p_holm == pytest.approx(2 * first.p)


def test_every_claim_has_its_verdict_runs_and_command() -> None:
    answers = [
        every_pair(claim("sure"), [(GOOD, BAD)]),
        every_pair(claim("wrong"), [(BAD, GOOD)]),
        every_pair(claim("close"), [(GOOD, NEAR)]),
        every_pair(claim("absent"), [(EMPTY, GONE)]),
        every_pair(claim("lost"), [(GOOD, LOST)]),
    ]
    made = assembled("table0", answers, [GOOD, BAD, NEAR, EMPTY, GONE, LOST])
    lines = {line.key: line for line in ledger(made).lines}
    assert {key: line.verdict for key, line in lines.items()} == {
        "sure": "holds",
        "wrong": "fails",
        "close": "undecided",
        "absent": "not run",
        "lost": "holds",
    }
    assert lines["sure"].run_ids == ("good0", "good1", "good2", "bad0", "bad1", "bad2")
    assert lines["absent"].run_ids == ("empty0", "empty1", "empty2", "gone0", "gone1", "gone2")
    assert [lines[k].launch for k in ("sure", "absent")] == ["", "launch table0"]
    assert "ratio 0.6" in lines["sure"].effect and "d_z -" in lines["sure"].effect
    assert lines["lost"].is_uncorrected and lines["lost"].ledger == "holds"
    assert lines["lost"].results == 6  # a divergence is a result
    assert lines["lost"].shown_results == "6 of 6, 3 diverged"
    assert lines["absent"].shown_results == "0 of 6"
    page = ledgers.markdown(ledger(made))
    assert "| 6 of 6, 3 diverged |" in page and "| 0 of 6 |" in page
    counts = ledger(made).counts()
    assert counts == {"holds": 2, "fails": 1, "undecided": 1, "not run": 1}


def test_a_claim_of_several_pairs_is_no_surer_than_its_worst() -> None:
    answer = every_pair(claim("both"), [(GOOD, BAD), (GOOD, cell("third", 3.4, 3.55, 3.7))])
    assert answer.verdict is Verdict.HOLDS
    assert ledgers.claim_p(answer) == max(c.adjusted_p for c in answer.comparisons)


def test_a_claim_that_two_exhibits_tell_is_counted_once() -> None:
    answer = every_pair(claim("same"), [(GOOD, BAD)])
    both = ledger(assembled("table0", [answer], [GOOD, BAD]), assembled("x", [answer], [GOOD, BAD]))
    (line,) = both.lines
    assert line.exhibits == ("table0", "x")


def test_an_exhibit_that_cannot_be_made_leaves_the_others() -> None:
    whole = assembled("table0", [every_pair(claim("sure"), [(GOOD, BAD)])], [GOOD, BAD])
    broken = replace(whole, name="broken", exhibit=None, problem="ValueError: no")
    assert [line.key for line in ledger(broken, whole).lines] == ["sure"]


@given(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_the_corrections_are_those_of_their_definitions(p_values: list[float]) -> None:
    """Holm: the largest of (m - i) p(i) so far. Benjamini-Hochberg: the least of m p(i) / i on."""
    line = ledger(
        assembled("table0", [every_pair(claim("sure"), [(GOOD, BAD)])], [GOOD, BAD])
    ).lines[0]
    lines = [replace(line, key=str(i), p=p) for i, p in enumerate(p_values)]
    found = ledgers._corrected(lines)
    ordered, m = np.sort(p_values), len(p_values)
    holm = np.minimum(1, np.maximum.accumulate(ordered * np.arange(m, 0, -1)))
    steps = ordered * m / np.arange(1, m + 1)
    q = np.array([min(1.0, steps[i:].min()) for i in range(m)])
    got = sorted((one.p, one.p_holm, one.q) for one in found)
    np.testing.assert_allclose([g[1] for g in got], holm)
    np.testing.assert_allclose([g[2] for g in got], q)
    for one in found:
        assert one.ledger == ("holds" if one.p_holm < 0.05 else "undecided")


def test_untested_claims_make_no_other_harder_and_undecided_ones_do() -> None:
    sure = every_pair(claim("sure"), [(GOOD, BAD)])
    absent = every_pair(claim("absent"), [(EMPTY, GONE)])
    close = every_pair(claim("close"), [(GOOD, NEAR)])
    cells = [GOOD, BAD, NEAR, EMPTY, GONE]

    def holm_of(*answers: Answer) -> float:
        lines = ledger(assembled("table0", answers, cells)).lines
        return next(line.p_holm for line in lines if line.key == "sure")

    assert holm_of(sure) == holm_of(sure, absent) == pytest.approx(ledgers.claim_p(sure))
    assert holm_of(sure, close) == pytest.approx(2 * ledgers.claim_p(sure))


def test_the_files_say_the_same_each_time(tmp_path_factory: pytest.TempPathFactory) -> None:
    answers = [every_pair(claim("a|b"), [(GOOD, BAD)]), every_pair(claim("c"), [(EMPTY, GONE)])]
    made = ledger(assembled("table0", answers, [GOOD, BAD, EMPTY, GONE]))
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    paths = ledgers.write(made, one)
    assert [p.name for p in paths] == ["ledger.csv", "ledger.md"]
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in ledgers.write(made, two)]
    table = pd.read_csv(paths[0])
    assert list(table["claim"]) == ["a|b", "c"]
    assert table["run_ids"][0] == "good0 good1 good2 bad0 bad1 bad2"
    assert math.isnan(table["p_holm"][1])
    text = paths[1].read_text()
    assert "2 claims: 1 holds, 0 fails, 0 undecided, 1 not run" in text
    assert "`launch table0`" in text and "Over the 1 claims" in text


def test_the_papers_claims_are_told_from_our_own_questions() -> None:
    ours = replace(
        every_pair(claim("ours"), [(GOOD, NEAR)]), claim=replace(claim("ours"), own=True)
    )
    papers = every_pair(claim("papers"), [(GOOD, BAD)])
    made = ledger(assembled("table0", [papers, ours], [GOOD, BAD, NEAR]))
    assert dict(zip(*ledgers.table(made)[["claim", "asked_by"]].T.values, strict=True)) == {
        "papers": "the paper",
        "ours": "this laboratory",
    }
    assert "2 claims (1 of the paper, 1 of our own)" in ledgers.summary(made)
    assert document.claims([papers]).heading == "The paper's claims"
    assert document.claims([ours]).heading == "The laboratory's own questions"
    assert all(one.own for one in mechanism.CLAIMS.values())


def test_a_claim_about_points_of_curves_has_the_runs_of_the_curves() -> None:
    at_step = [replace(one, cell_id=f"{one.cell_id}@40") for one in (GOOD, BAD)]
    answer = every_pair(claim("curve"), [(at_step[0], at_step[1])])
    (line,) = ledger(assembled("figure0", [answer], [GOOD, BAD, NEAR])).lines
    assert line.run_ids == ("good0", "good1", "good2", "bad0", "bad1", "bad2")
    assert (line.verdict, line.results) == ("holds", 6)


def test_exhibits_are_sorted_as_people_count() -> None:
    names = ["table10", "figure2", "mechanism", "table2", "figure10"]
    assert sorted(names, key=natural) == ["figure2", "figure10", "mechanism", "table2", "table10"]
