"""Table 4: gradient spikes by kind of layer, in number and for each weight (Appendix A).

The paper's 109 spikes a weight of the LayerNorms cannot come from its own Definition P.1 over 1000
steps: by Markov's inequality a weight spikes at fewer than steps / 50 of them. So a second reading
is shown beside it, the score over the running average, whose bound is another; both bounds are
worked out here, and beside ours stands what the paper printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import document, drawing, spikes
from analysis.claims import Answer, Claim, Part
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.spikes import DEFINITION, KIND_NAMES, KINDS, RUNNING, THRESHOLD, ObservedRun
from analysis.stats import Cell, Verdict
from spam_lab.config.schema import ScaleConfig

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

SOURCE = "Table 4, Appendix A"
PUBLISHED = {
    "embedding": (11_954_001, 16_384_000, "0.729"),
    "attention": (86_302, 8_388_608, "0.010"),
    "ffn": (105_415, 16_908_288, "0.006"),
    "norm": (949_302, 8_704, "109.06"),
    "head": (13_893, 16_384_000, "0.000848"),
}
"""Spikes, weights and their ratio, as printed."""

MOST = Claim(
    "table4.most",
    "The embedding has the highest number of spikes",
    f"{SOURCE}: “The Embedding Layer exhibits the highest number of gradient spikes”",
)
OFTEN = Claim(
    "table4.often",
    "The norms spike most often for their size",
    f"{SOURCE}: “The LayerNorm Layer, however, experiences an exceptionally high frequency of "
    "spikes, even with the smallest number of parameters”",
)
POSSIBLE = Claim(
    "table4.possible",
    "The printed ratios follow from Definition P.1 at a score of 50 over 1000 steps",
    f"{SOURCE}: 949,302 spikes of 8,704 weights, 109.06 each, by “GSS(g_i) > 50”",
)
PUBLISHED_STEPS = 1001
"""Steps 0 to T = 1000 of Definition P.1, the reading that allows the most."""


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table4`."""
    runs = spikes.observed_runs(frame)[("llama_60m", "adam")]
    answers = (_most(runs), _often(runs), possible())
    table = _table(runs)
    return Exhibit(
        name="table4",
        title=f"Table 4 at scale {scale.name}: gradient spikes by kind of layer",
        summary=(
            f"LLaMA-60M with Adam on `{spikes.corpus(requests)}`, beside the paper's counts "
            f"({SOURCE}). Mean over seeds, with the smallest and the largest."
        ),
        figure=_figure(runs, answers, document.setting(requests)),
        table=table,
        answers=answers,
        sections=(
            Section("Spikes by kind of layer", _values(table)),
            spikes.observed(requests),
            _bounds(),
            document.claims(answers),
            document.what_was_run(requests, frame),
            spikes.limits(
                scale,
                "The smaller the vocabulary and the batch, the more weights of the embedding have "
                "a gradient at few steps only.",
            ),
            spikes.runs_behind({("llama_60m", "adam"): runs}),
        ),
    )


def definition_bound(steps: int, threshold: float = THRESHOLD) -> int:
    """The most steps at which one weight can spike by Definition P.1.

    The mean of n magnitudes is at least k * threshold * mean / n where k of them exceed threshold
    times the mean: k < n / threshold (Markov).
    """
    return max(0, math.ceil(steps / threshold) - 1)


def running_bound(steps: int, threshold: float = THRESHOLD) -> int:
    """The same over the running average: none before step `threshold`, any after it."""
    return max(0, steps - int(threshold))


def least_growth(spiking: int, steps: int, threshold: float = THRESHOLD) -> float:
    """How much the sum of magnitudes grows at least, if a weight spikes so often by the running
    average.

    |g_t| > c S_t / t with S_t = S_(t-1) + |g_t| means S_t > S_(t-1) t / (t - c): least where all
    spikes are at the last steps.
    """
    last = range(steps - spiking + 1, steps + 1)
    return math.exp(sum(math.log(t / (t - threshold)) for t in last))


def possible() -> Answer:
    """Which printed ratios exceed the bound of Definition P.1: arithmetic on the table itself."""
    bound = definition_bound(PUBLISHED_STEPS)
    parts = []
    for kind, (count, size, _) in PUBLISHED.items():
        ratio = count / size
        text = f"{KIND_NAMES[kind]}: {ratio:.3g} spikes a weight is at most {bound}"
        verdict = Verdict.HOLDS if ratio <= bound else Verdict.FAILS
        parts.append(Part(text, verdict, f"{count:,} / {size:,}, as printed"))
    return Answer(
        POSSIBLE,
        Verdict.FAILS if any(p.verdict is Verdict.FAILS for p in parts) else Verdict.HOLDS,
        f"Markov's inequality: of {PUBLISHED_STEPS} magnitudes fewer than "
        f"{PUBLISHED_STEPS}/{THRESHOLD:g} exceed {THRESHOLD:g} times their mean. No run enters",
        "",
        tuple(parts),
    )


def _most(runs: Sequence[ObservedRun]) -> Answer:
    cells = {kind: _cell(runs, kind, per_weight=False) for kind in KINDS}
    pairs = [(cells[kind], cells["embedding"]) for kind in KINDS if kind != "embedding"]
    return spikes.fewer(MOST, pairs, "has fewer spikes than", of="the number of spikes")


def _often(runs: Sequence[ObservedRun]) -> Answer:
    cells = {kind: _cell(runs, kind, per_weight=True) for kind in KINDS}
    pairs = [(cells[kind], cells["norm"]) for kind in KINDS if kind != "norm"]
    return spikes.fewer(OFTEN, pairs, "has fewer spikes a weight than", of="spikes a weight")


def _cell(runs: Sequence[ObservedRun], kind: str, per_weight: bool) -> Cell:
    """One kind of layer; no cell_id, since all kinds are of the same runs."""
    cell = spikes.cell_of(
        KIND_NAMES[kind],
        runs,
        lambda seen: (
            spikes.spikes(seen, [kind]) / (spikes.weights(seen, [kind]) if per_weight else 1)
        ),
    )
    return replace(cell, cell_id="")


def _table(runs: Sequence[ObservedRun]) -> pd.DataFrame:
    rows = []
    for kind in KINDS:
        count, size, ratio = PUBLISHED[kind]
        row: dict[str, object] = {"kind": kind}
        seen = [observations for _, observations in spikes.seen_of(runs)]
        row["weights"] = spikes.weights(seen[0], [kind]) if seen else None
        for reading in (DEFINITION, RUNNING):
            read = [one for one in seen if spikes.has_reading(one, reading)]
            counts = [spikes.spikes(one, [kind], reading) for one in read]
            row[f"spikes_{reading}"] = spikes.spread(counts)
            row[f"ratio_{reading}"] = spikes.spread(
                [n / spikes.weights(one, [kind]) for n, one in zip(counts, read, strict=True)]
            )
        row |= {"published_spikes": count, "published_weights": size, "published_ratio": ratio}
        row["n"] = len(seen)
        row["run_ids"] = " ".join(run.run_id for run in runs)
        rows.append(row)
    return pd.DataFrame(rows)


def _values(table: pd.DataFrame) -> str:
    rows = [
        (
            KIND_NAMES[row["kind"]],
            "–" if pd.isna(row["weights"]) else f"{row['weights']:,}",
            row["spikes_definition"],
            row["ratio_definition"],
            row["spikes_running"],
            row["ratio_running"],
            f"{row['published_spikes']:,}",
            f"{row['published_weights']:,}",
            row["published_ratio"],
        )
        for row in table.to_dict("records")
    ]
    headers = ["kind", "weights", "spikes", "a weight", "spikes, running average", "a weight"]
    return document.table([*headers, "paper: spikes", "weights", "a weight"], rows)


def _bounds() -> Section:
    printed = math.ceil(PUBLISHED["norm"][0] / PUBLISHED["norm"][1])
    growth = least_growth(printed, PUBLISHED_STEPS)
    bound, running = definition_bound(PUBLISHED_STEPS), running_bound(PUBLISHED_STEPS)
    needed = math.ceil(printed * THRESHOLD)
    return Section(
        "Which reading can give 109 spikes a weight",
        document.table(
            ["reading", f"a weight's spikes in {PUBLISHED_STEPS} steps, at most", "109.06"],
            [
                ("Definition P.1: the mean over all steps", bound, "impossible"),
                ("the mean over the steps so far", running, "possible"),
            ],
        )
        + f"\n\nBy the definition a weight would need at least {needed:,} gradients to spike "
        f"{printed} times. Over the running average it can, if its gradients grow as it goes: the "
        f"sum of their magnitudes by a factor of at least {growth:,.0f} over the spiking steps. "
        "Counting the gradients of micro-batches or of several processes would do as well. The "
        "paper does not say what it counted.",
    )


def _figure(runs: Sequence[ObservedRun], answers: Sequence[Answer], setting: str) -> Figure:
    with drawing.style():
        figure = drawing.new_figure(7.4, 6.2, f"Gradient spikes by kind of layer, {setting}")
        panels = figure.subplots(2, 2)
        ours = {kind: [one for _, one in spikes.seen_of(runs)] for kind in KINDS}
        counts = {k: [float(spikes.spikes(one, [k])) for one in ours[k]] for k in KINDS}
        rates = {
            k: [n / spikes.weights(one, [k]) for n, one in zip(counts[k], ours[k], strict=True)]
            for k in KINDS
        }
        printed = {k: [float(PUBLISHED[k][0])] for k in KINDS}
        ratio = {k: [PUBLISHED[k][0] / PUBLISHED[k][1]] for k in KINDS}
        first = next(iter(ours[KINDS[0]]), None)
        steps = first.about["steps"] if first else PUBLISHED_STEPS
        reading = spikes.reading_of(first) if first else DEFINITION
        own = f"Ours{spikes.unlike([first] if first else [])}"
        most, often, _ = answers
        _bars(panels[0, 0], counts, f"{own}: spikes", f"“most in the embedding”: {most.verdict}")
        _bars(
            panels[0, 1], rates, f"{own}: spikes a weight", f"“norms most often”: {often.verdict}"
        )
        _bars(panels[1, 0], printed, "Published: spikes", f"one run ({SOURCE})")
        _bars(panels[1, 1], ratio, "Published: spikes a weight", f"one run ({SOURCE})")
        _draw_bound(panels[0, 1], reading, steps)
        _draw_bound(panels[1, 1], DEFINITION, PUBLISHED_STEPS)
    return figure


def _bars(axes: Axes, values: Mapping[str, Sequence[float]], title: str, footer: str) -> None:
    """A bar to each mean, a dot for each seed, on a logarithmic axis; none is written out."""
    labels = [KIND_NAMES[kind].replace("LayerNorm", "Layer-\nNorm") for kind in values]
    drawing.frame(axes, labels, title=title, axis="", footer=footer)
    axes.set_ylabel("")
    known = [value for of_kind in values.values() for value in of_kind if value > 0]
    if not known:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no results yet", transform=axes.transAxes, ha="center")
        return
    axes.set_yscale("log")
    low, high = min(known) / 4, max(max(known) * 4, 60 * (max(known) < 1e3))
    axes.set_ylim(low, high)
    for place, of_kind in enumerate(values.values()):
        mean = sum(of_kind) / len(of_kind) if of_kind else 0.0
        if mean > 0:
            axes.bar(place, mean - low, bottom=low, width=0.6, color=drawing.BLUE, alpha=0.35)
            axes.plot([place - 0.3, place + 0.3], [mean, mean], color=drawing.BLUE, lw=1.6)
        else:
            axes.text(place, low * 1.25, "none", ha="center", fontsize=7.5, color=drawing.GREY)
        shown = [value for value in of_kind if value > 0]
        if len(of_kind) > 1:
            axes.plot([place + 0.17] * len(shown), shown, "o", ms=3, color=drawing.GREY, mew=0)


def _draw_bound(axes: Axes, reading: str, steps: int) -> None:
    bound = definition_bound(steps) if reading == DEFINITION else running_bound(steps)
    axes.axhline(bound, color=drawing.VERMILLION, ls=drawing.DASHES, lw=1)
    axes.text(
        -0.5,
        bound * 1.2,
        f"{spikes.READING_NAMES[reading]} allows {bound}",
        fontsize=7.5,
        color=drawing.VERMILLION,
    )
