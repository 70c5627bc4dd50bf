"""The claims ledger: every claim of the paper, and every question of our own, at every scale
that was run, with its verdict, test, effect and runs, and with a correction for how many claims
were tested.

Each claim keeps its own verdict, which is corrected for the comparisons within it (`claims`).
Over all claims that were tested, at all scales, two corrections stand beside it. Holm's method
holds the chance of any wrong verdict in the whole ledger below 5 %, however the claims depend on
each other (many share runs): where its p value is not below 5 %, the ledger's own verdict is
undecided. The q value of Benjamini and Hochberg bounds the expected share of wrong verdicts among
those called; it assumes that the tests do not depend on each other negatively, and changes no
verdict. A claim's p value is the largest adjusted p value among its comparisons that have the
claim's verdict, so it never makes a claim look surer than its rule does; an undecided claim counts
with p = 1. A verdict without a p value (runs that diverged, a statement of order) is not corrected,
is said not to be, and counts with p = 1 too. Claims without any result are listed as not run, and
do not count: nothing was tested. It promises the same bytes from the same record.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from scipy.stats import false_discovery_control

from analysis import document
from analysis.assembly import Assembled, Scale
from analysis.claims import Answer
from analysis.frames import RESULTS
from analysis.stats import CONFIDENCE, Comparison, Verdict, holm
from spam_lab.files import replacing

NOT_RUN = "not run"
ASKED = {False: "the paper", True: "this laboratory"}
VERDICTS = (*(str(verdict) for verdict in Verdict), NOT_RUN)

CORRECTION = (
    "Each claim's own verdict is corrected for the comparisons within it. Over the {count} claims "
    "that were tested, `p (Holm)` is corrected for their number, whatever ties there are between "
    "them, and the ledger's verdict is undecided where it is not below 5 %; `q (BH)` is the "
    "Benjamini-Hochberg q value, for a share of wrong verdicts in place of any, under tests that "
    "do not depend on each other negatively. A claim's p is the largest adjusted p value among its "
    "comparisons that have the claim's verdict; undecided claims, and verdicts without a p value, "
    "which are left as they are, count with p = 1."
)


@dataclass(frozen=True)
class Line:
    """One claim at one scale.

    Attributes:
        key, text, source, own: the claim; `own` says that it is this laboratory's question.
        exhibits: those that test it, the first first.
        scale: the scale's name.
        verdict: of the exhibit: holds, fails, undecided; or not run.
        test, effect, detail: in words and numbers; empty where there is none.
        p: of the verdict, adjusted within the claim; NaN where there is none.
        p_holm, q: over the ledger; NaN where p is.
        ledger: the verdict after Holm's correction over the ledger.
        run_ids: the runs behind the claim, results or not.
        results: how many of these have a result.
        diverged: how many of the results are divergences.
        launch: the command that trains what is missing; empty where nothing is.
    """

    key: str
    text: str
    source: str
    own: bool
    exhibits: tuple[str, ...]
    scale: str
    verdict: str
    test: str
    effect: str
    detail: str
    p: float
    run_ids: tuple[str, ...]
    results: int
    diverged: int
    launch: str
    p_holm: float = math.nan
    q: float = math.nan
    ledger: str = NOT_RUN

    @property
    def shown_results(self) -> str:
        """How many runs have a result, of how many, and how many of the results diverged."""
        lost = f", {self.diverged} diverged" if self.diverged else ""
        return f"{self.results} of {len(self.run_ids)}{lost}"

    @property
    def is_uncorrected(self) -> bool:
        """Whether there is a verdict that no p value stands behind."""
        return self.verdict in (Verdict.HOLDS, Verdict.FAILS) and math.isnan(self.p)


@dataclass(frozen=True)
class Ledger:
    """Every claim, by scale and exhibit."""

    lines: tuple[Line, ...]

    @property
    def tested(self) -> list[Line]:
        """The claims that were tested."""
        return [line for line in self.lines if line.verdict != NOT_RUN]

    def counts(self, corrected: bool = False) -> dict[str, int]:
        """How many claims have which verdict: each claim's own, or the ledger's."""
        found = Counter(line.ledger if corrected else line.verdict for line in self.lines)
        return {verdict: found[verdict] for verdict in VERDICTS}


def ledger_of(scales: Sequence[Scale]) -> Ledger:
    """The claims of every exhibit at these scales, corrected over all of them."""
    lines: dict[tuple[str, str], Line] = {}
    for scale in scales:
        for made in scale.exhibits:
            for line in _lines(made):
                known = lines.get((line.scale, line.key))
                if known is not None:  # two exhibits of the same runs tell the same claim
                    line = replace(known, exhibits=(*known.exhibits, made.name))
                lines[line.scale, line.key] = line
    return Ledger(tuple(_corrected(list(lines.values()))))


def table(ledger: Ledger) -> pd.DataFrame:
    """One row a claim and scale, all of it, as the CSV holds it."""
    return pd.DataFrame(
        [
            {
                "scale": line.scale,
                "claim": line.key,
                "text": line.text,
                "source": line.source,
                "asked_by": ASKED[line.own],
                "exhibits": " ".join(line.exhibits),
                "verdict": line.verdict,
                "ledger_verdict": line.ledger,
                "p": line.p,
                "p_holm": line.p_holm,
                "q_bh": line.q,
                "effect": line.effect,
                "detail": line.detail,
                "test": line.test,
                "results": line.results,
                "diverged": line.diverged,
                "runs": len(line.run_ids),
                "run_ids": " ".join(line.run_ids),
                "command": line.launch,
            }
            for line in ledger.lines
        ]
    )


def markdown(ledger: Ledger) -> str:
    """The ledger as a page."""
    parts = ["# The claims", summary(ledger), CORRECTION.format(count=len(ledger.tested))]
    for scale in dict.fromkeys(line.scale for line in ledger.lines):
        rows = [
            (
                f"{line.text} ({line.source})",
                ASKED[line.own],
                ", ".join(line.exhibits),
                f"**{line.verdict}**",
                shown_p(line.p_holm),
                shown_p(line.q),
                f"{line.ledger} (not corrected)" if line.is_uncorrected else line.ledger,
                line.effect or "–",
                line.shown_results,
                f"`{line.launch}`" if line.launch else "–",
            )
            for line in ledger.lines
            if line.scale == scale
        ]
        headers = [
            "claim",
            "asked by",
            "exhibit",
            "verdict",
            "p (Holm)",
            "q (BH)",
            "over the ledger",
        ]
        headers += ["effect", "runs with a result", "what is missing"]
        parts.append(f"## Scale {scale}\n\n{document.table(headers, rows)}")
    parts.append("The runs behind each claim, and its test in full, are in ledger.csv.")
    return "\n\n".join(parts) + "\n"


def summary(ledger: Ledger) -> str:
    """How many claims there are, and of which verdict."""
    own, over = ledger.counts(), ledger.counts(corrected=True)
    shown = ", ".join(f"{count} {verdict}" for verdict, count in own.items())
    corrected = ", ".join(f"{over[v]} {v}" for v in (Verdict.HOLDS, Verdict.FAILS))
    ours = sum(line.own for line in ledger.lines)
    whose = f" ({len(ledger.lines) - ours} of the paper, {ours} of our own)" if ours else ""
    return f"{len(ledger.lines)} claims{whose}: {shown}. Corrected over the ledger: {corrected}."


def write(ledger: Ledger, folder: Path) -> list[Path]:
    """Write ledger.csv and ledger.md."""
    content = {"ledger.csv": csv(ledger), "ledger.md": markdown(ledger)}
    for name, text in content.items():
        with replacing(folder / name) as file:
            file.write(text.encode())
    return [folder / name for name in content]


def csv(ledger: Ledger) -> str:
    """The whole ledger as CSV."""
    return table(ledger).to_csv(index=False, float_format="%.6g", lineterminator="\n")


def shown_p(p: float) -> str:
    """A p value as people read it; a dash where there is none."""
    if math.isnan(p):
        return "–"
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def claim_p(answer: Answer) -> float:
    """The p value behind a verdict that holds or fails; NaN where none stands behind it."""
    if answer.verdict is Verdict.UNDECIDED:
        return math.nan
    same = [c for c in answer.behind if c.verdict is answer.verdict]
    if not same or any(math.isnan(comparison.adjusted_p) for comparison in same):
        return math.nan
    return max(comparison.adjusted_p for comparison in same)


def effect(answer: Answer) -> str:
    """The sizes of the differences behind a claim, ratios where they are logarithms' differences,
    and d_z where it is known."""
    known = [c.difference for c in answer.behind if c.difference is not None]
    if not known:
        return ""
    text = f"difference {_range([d.mean for d in known], '+.4g')}"
    if answer.is_ratio:
        text = f"ratio {_range([d.ratio for d in known], '.4g')}"
    sizes = [d.effect for d in known if not math.isnan(d.effect)]
    if sizes:
        text += f", d_z {_range(sizes, '+.2f')}"
    return f"{text}, n={_range([d.n for d in known], 'd')}"


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _lines(made: Assembled) -> Iterable[Line]:
    """One line a claim of an exhibit, before the correction over the ledger."""
    if made.exhibit is None or made.frame.empty:
        return
    for answer in made.exhibit.answers:
        runs = made.frame[_behind(answer, made.frame)].drop_duplicates("run_id")
        results = int(runs["state"].isin(RESULTS).sum())
        yield Line(
            key=answer.claim.key,
            text=answer.claim.text,
            source=answer.claim.source,
            own=answer.claim.own,
            exhibits=(made.name,),
            scale=made.scale,
            verdict=str(answer.verdict) if results else NOT_RUN,
            test=answer.test,
            effect=effect(answer),
            detail=answer.detail if results else "",
            p=claim_p(answer) if results else math.nan,
            run_ids=tuple(runs["run_id"]),
            results=results,
            diverged=int((runs["state"] == "diverged").sum()),
            launch="" if results == len(runs) else made.launch,
        )


def _behind(answer: Answer, frame: pd.DataFrame) -> pd.Series[bool]:
    """Which rows stand behind an answer: those of the cells it compares, or all."""
    # A point of a curve is a cell at a step: CELL_ID@STEP (`curves`).
    cells = {cell_id.partition("@")[0] for c in answer.behind for cell_id in _cell_ids(c)}
    if not cells:
        return pd.Series(True, index=frame.index)
    return frame["cell_id"].isin(cells)


def _cell_ids(comparison: Comparison) -> list[str]:
    return [cell.cell_id for cell in (comparison.better, comparison.worse) if cell.cell_id]


def _corrected(lines: Sequence[Line]) -> list[Line]:
    """The lines with the corrections over all that were tested."""
    tested = [index for index, line in enumerate(lines) if line.verdict != NOT_RUN]
    p_values = [1.0 if math.isnan(lines[index].p) else lines[index].p for index in tested]
    if not tested:
        return list(lines)
    q_values = false_discovery_control(p_values, method="bh")
    corrected = list(lines)
    for index, p_holm, q in zip(tested, holm(p_values), q_values, strict=True):
        corrected[index] = _with_correction(lines[index], p_holm, float(q))
    return corrected


def _with_correction(line: Line, p_holm: float, q: float) -> Line:
    if math.isnan(line.p):
        return replace(line, ledger=line.verdict)
    stands = p_holm < 1 - CONFIDENCE
    return replace(
        line, p_holm=p_holm, q=q, ledger=line.verdict if stands else str(Verdict.UNDECIDED)
    )
