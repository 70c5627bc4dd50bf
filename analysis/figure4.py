"""Figure 4: gradient spikes under four earlier remedies, beside none (Section 2.1).

The paper draws it without printing a count, so its claims are what is compared. Multiplying the
embedding's gradient by a constant (Embed Detach) changes no score at all by itself, since a score
is a ratio of gradients of one weight, nor Adam's steps, but for eps.
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
from analysis.cell_table import Key
from analysis.claims import Answer, Claim, Part
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.spikes import KINDS, ObservedRun
from analysis.stats import Cell, Verdict, all_of
from spam_lab.config.schema import ScaleConfig

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

SOURCE = "Figure 4, Section 2.1"
MODEL, NONE = "llama_60m", "adam"
REMEDIES = {
    NONE: "none",
    "embed_ln": "Embed LN",
    "embed_detach": "Embed Detach",
    "scaled_embed": "Scaled Embed",
    "scaled_init": "Scaled Init",
}
HARDLY = 0.10
"""What we take for little: a reduction by less than a tenth. The paper states no bound."""

REDUCE = Claim(
    "figure4.reduce",
    "Scaled Embed and Embed LN reduce the number of spikes",
    f"{SOURCE}: “Scaled Embed and Embed LN significantly reduce the number of gradient spikes”",
)
LITTLE = Claim(
    "figure4.little",
    f"Embed Detach and Scaled Init hardly reduce it (here: by less than {HARDLY:.0%})",
    f"{SOURCE}: “while the other methods offer little to no improvement”",
)
REMAIN = Claim(
    "figure4.remain",
    "No remedy removes the spikes",
    f"{SOURCE}: “Advanced spike mitigation approaches cannot completely eliminate gradient spikes”",
)
WITHIN = ("attention", "ffn", "norm")
"""Kinds of layers whose weights all have a gradient at every step."""


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `figure4`."""
    runs = spikes.observed_runs(frame)
    cells = {name: _cell(runs, name) for name in REMEDIES}
    none = cells[NONE]
    answers = (
        spikes.fewer(
            REDUCE,
            [(cells[n], none) for n in ("scaled_embed", "embed_ln")],
            "has fewer spikes than",
        ),
        _little(cells),
        _remain(runs, cells),
    )
    table = _table(runs)
    return Exhibit(
        name="figure4",
        title=f"Figure 4 at scale {scale.name}: gradient spikes under earlier remedies",
        summary=(
            f"LLaMA-60M with Adam on `{spikes.corpus(requests)}`. Mean over seeds, with the "
            f"smallest and the largest. The paper prints no counts ({SOURCE})."
        ),
        figure=_figure(runs, answers, document.setting(requests)),
        table=table,
        answers=answers,
        sections=(
            Section("Spikes under each remedy", _values(table)),
            spikes.observed(requests),
            document.claims(answers),
            document.what_was_run(requests, frame),
            spikes.limits(
                scale,
                "Nearly all spikes here are those of rare tokens in the embedding; the columns "
                "without embedding and head are the better guide to instability.",
            ),
            spikes.runs_behind(runs),
        ),
    )


def _cell(runs: Mapping[Key, Sequence[ObservedRun]], name: str) -> Cell:
    of_cell = runs.get((MODEL, name), ())
    shown = "no remedy" if name == NONE else REMEDIES[name]
    return spikes.cell_of(shown, of_cell, lambda seen: spikes.log_count(spikes.spikes(seen)))


def _little(cells: Mapping[str, Cell]) -> Answer:
    """The count is above (1 - HARDLY) times that without a remedy."""
    none = cells[NONE]
    reduced = replace(
        none,
        name=f"no remedy - {HARDLY:.0%}",
        losses={seed: value + math.log1p(-HARDLY) for seed, value in none.losses.items()},
    )
    pairs = [(reduced, cells[name]) for name in ("embed_detach", "scaled_init")]
    return spikes.fewer(LITTLE, pairs, "has fewer spikes than")


def _remain(runs: Mapping[Key, Sequence[ObservedRun]], cells: Mapping[str, Cell]) -> Answer:
    """Every run of a remedy has spikes; it fails where all runs of a remedy have none."""
    parts = []
    for name in REMEDIES:
        if name == NONE:
            continue
        of_cell = runs.get((MODEL, name), ())
        counts = [spikes.spikes(seen) for _, seen in spikes.seen_of(of_cell)]
        verdict = Verdict.UNDECIDED
        if counts and len(counts) == len(of_cell):
            verdict = Verdict.HOLDS if min(counts) > 0 else verdict
            verdict = Verdict.FAILS if max(counts) == 0 else verdict
        shown = ", ".join(f"{count:,}" for count in counts) or "no runs"
        parts.append(Part(f"{cells[name].name} has spikes", verdict, f"by seed: {shown}"))
    return Answer(
        REMAIN,
        all_of([part.verdict for part in parts]),
        "a count: holds if every run of every remedy has a spike, fails if a remedy has none in "
        "any run",
        "",
        tuple(parts),
    )


def _table(runs: Mapping[Key, Sequence[ObservedRun]]) -> pd.DataFrame:
    rows = []
    for name in REMEDIES:
        of_cell = runs.get((MODEL, name), ())
        seen = [one for _, one in spikes.seen_of(of_cell)]
        row: dict[str, object] = {"remedy": REMEDIES[name], "runs": len(of_cell), "n": len(seen)}
        row["spikes"] = spikes.spread([spikes.spikes(one) for one in seen])
        row["within_layers"] = spikes.spread([spikes.spikes(one, WITHIN) for one in seen])
        for kind in KINDS:
            row[kind] = spikes.spread([spikes.spikes(one, [kind]) for one in seen])
        row["running_average"] = spikes.spread(
            [spikes.spikes(one, KINDS, spikes.RUNNING) for one in seen]
        )
        row["states"] = ", ".join(sorted({run.state for run in of_cell}))
        row["run_ids"] = " ".join(run.run_id for run in of_cell)
        rows.append(row)
    return pd.DataFrame(rows)


def _values(table: pd.DataFrame) -> str:
    columns = ["remedy", "n", "spikes", "within_layers", *KINDS, "running_average", "states"]
    names = {"within_layers": "without embedding and head", "running_average": "running average"}
    headers = [names.get(column, column) for column in columns]
    rows = [[row[column] for column in columns] for row in table.to_dict("records")]
    return document.table(headers, rows)


def _figure(
    runs: Mapping[Key, Sequence[ObservedRun]], answers: Sequence[Answer], setting: str
) -> Figure:
    with drawing.style():
        figure = drawing.new_figure(7.4, 3.5, f"Gradient spikes under earlier remedies, {setting}")
        left, right = figure.subplots(1, 2)
        seen = [one for of_cell in runs.values() for _, one in spikes.seen_of(of_cell)]
        reduce, little, _ = answers
        _draw(
            left,
            _counts(runs, KINDS),
            f"All weights{spikes.unlike(seen)}",
            f"“Embed LN, Scaled Embed reduce”: {reduce.verdict}\n“others hardly”: {little.verdict}",
        )
        _draw(right, _counts(runs, WITHIN), "Without embedding and head", "described, not tested")
    return figure


def _counts(
    runs: Mapping[Key, Sequence[ObservedRun]], kinds: Sequence[str]
) -> dict[str, list[int]]:
    return {
        name: [
            spikes.spikes(seen, kinds) for _, seen in spikes.seen_of(runs.get((MODEL, name), ()))
        ]
        for name in REMEDIES
    }


def _draw(axes: Axes, counts: Mapping[str, Sequence[int]], title: str, footer: str) -> None:
    """A bar to each mean from zero, and a dot for each seed."""
    labels = [REMEDIES[name].replace(" ", "\n") for name in counts]
    drawing.frame(axes, labels, title=title, axis="", footer=footer)
    axes.set_ylabel("gradient spikes")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for place, (name, of_cell) in enumerate(counts.items()):
        if not of_cell:
            axes.text(place, 0, "no result", ha="center", va="bottom", fontsize=7, rotation=90)
            continue
        colour = drawing.GREY if name == NONE else drawing.BLUE
        mean = sum(of_cell) / len(of_cell)
        axes.bar(place, mean, width=0.6, color=colour, alpha=0.35)
        axes.plot([place - 0.3, place + 0.3], [mean, mean], color=colour, lw=1.6)
        axes.plot([place + 0.17] * len(of_cell), of_cell, "o", ms=3, color=drawing.INK, mew=0)
    axes.set_ylim(bottom=0)
