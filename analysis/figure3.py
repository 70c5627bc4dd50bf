"""Figure 3: gradients that spike, in two architectures, two corpora and all layers (Section 2.1).

Panels 1 to 3 draw up to 100 of the followed weights that spike, drawn by lot; panel 4 counts the
spikes in every tensor. The paper prints no values, so its claims are what is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import document, drawing, spikes
from analysis.cell_table import Key
from analysis.claims import Answer, Claim, Part
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.spikes import THRESHOLD, ObservedRun
from analysis.stats import Cell, Verdict, all_of
from spam_lab.config.schema import ScaleConfig
from spam_lab.record.observations import Observations, scores

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

SOURCE = "Figure 3, Section 2.1"
OWN, SECOND, PYTHIA = ("llama_60m", "adam"), ("llama_60m", "slimpajama"), ("pythia_70m", "adam")
CELLS: tuple[Key, ...] = (OWN, SECOND, PYTHIA)
DRAWN = 100
"""Spiking weights drawn in a panel, at most."""

EVERY_LAYER = Claim(
    "figure3.layers",
    "Gradients spike in every layer, in both architectures",
    f"{SOURCE}: “Gradient spikes are widely presented in different layers, across different "
    "architectures, model sizes, and datasets”",
)
CLEANER = Claim(
    "figure3.cleaner",
    "There are fewer spikes on SlimPajama than on C4",
    f"{SOURCE}: “gradient spikes occur even when using cleaner, high-quality datasets such as "
    "SlimPajama, although the frequency of spikes is reduced with this cleaner dataset”",
)


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `figure3`."""
    runs = spikes.observed_runs(frame)
    answers = (_every_layer(runs), _cleaner(runs))
    table = _table(runs)
    asked = SECOND in runs
    return Exhibit(
        name="figure3",
        title=f"Figure 3 at scale {scale.name}: gradients that spike",
        summary=(
            f"The first steps of Adam on `{spikes.corpus(requests)}`"
            + (
                " and on SlimPajama"
                if asked
                else "; SlimPajama is asked for beside `data=c4` alone"
            )
            + f". The paper prints no values of this figure ({SOURCE})."
        ),
        figure=_figure(runs, answers, document.setting(requests)),
        table=table,
        answers=answers,
        sections=(
            Section("Spikes in every tensor", _values(table)),
            spikes.observed(requests),
            document.claims(answers),
            document.what_was_run(requests, frame),
            spikes.limits(
                scale,
                "C4 against SlimPajama is a question of those two texts: where the shipped one is "
                "trained on, nothing is said of it.",
            ),
            spikes.runs_behind(runs),
        ),
    )


def _every_layer(runs: Mapping[Key, Sequence[ObservedRun]]) -> Answer:
    parts = []
    for key in (OWN, PYTHIA):
        of_cell = runs.get(key, ())
        seen = [one for _, one in spikes.seen_of(of_cell)]
        none = [int((spikes.by_tensor(one) == 0).sum()) for one in seen]
        verdict, detail = Verdict.UNDECIDED, f"{len(of_cell) - len(seen)} runs have no result"
        if seen and len(seen) == len(of_cell):
            verdict = Verdict.HOLDS if max(none) == 0 else verdict
            verdict = Verdict.FAILS if min(none) > 0 else verdict
            detail = (
                f"of {len(seen[0].parameters)} tensors without a spike, by seed: "
                f"{', '.join(map(str, none))}"
            )
        parts.append(Part(f"{spikes.model_name(*key)}: every tensor has spikes", verdict, detail))
    return Answer(
        EVERY_LAYER,
        all_of([part.verdict for part in parts]),
        "a count of tensors: holds if in every run each has a spike, fails if in every run some "
        "have none",
        "",
        tuple(parts),
    )


def _cleaner(runs: Mapping[Key, Sequence[ObservedRun]]) -> Answer:
    def cell(key: Key, name: str) -> Cell:
        def value(seen: Observations) -> float:
            return spikes.log_count(spikes.spikes(seen))

        return spikes.cell_of(name, runs.get(key, ()), value)

    pair = (cell(SECOND, "SlimPajama"), cell(OWN, "C4"))
    return spikes.fewer(CLEANER, [pair], "has fewer spikes than")


def _table(runs: Mapping[Key, Sequence[ObservedRun]]) -> pd.DataFrame:
    """One row a tensor: spikes by seed."""
    rows = []
    for key in CELLS:
        seen = spikes.seen_of(runs.get(key, ()))
        for place, tensor in enumerate(seen[0][1].parameters.to_dict("records") if seen else ()):
            counts = [int(spikes.by_tensor(one).iloc[place]) for _, one in seen]
            rows.append(
                {
                    "cell": spikes.model_name(*key),
                    "number": place,
                    "tensor": str(tensor["name"]),
                    "kind": str(tensor["kind"]),
                    "weights": tensor["entries"],
                    "spikes_mean": sum(counts) / len(counts),
                    "spikes_by_seed": " ".join(map(str, counts)),
                    "run_ids": " ".join(run.run_id for run, _ in seen),
                }
            )
    columns = ["cell", "number", "tensor", "kind", "weights", "spikes_mean", "spikes_by_seed"]
    return pd.DataFrame(rows, columns=[*columns, "run_ids"])


def _values(table: pd.DataFrame) -> str:
    if table.empty:
        return "No run has a result."
    rows = [
        (
            row["cell"],
            row["number"],
            f"`{row['tensor']}`",
            f"{row['weights']:,}",
            row["spikes_by_seed"],
        )
        for row in table.to_dict("records")
    ]
    return document.table(["cell", "number", "tensor", "weights", "spikes, by seed"], rows)


def _figure(
    runs: Mapping[Key, Sequence[ObservedRun]], answers: Sequence[Answer], setting: str
) -> Figure:
    with drawing.style():
        figure = drawing.new_figure(7.4, 6.2, f"Gradients that spike, {setting}")
        panels = figure.subplots(2, 2).flat
        for number, (axes, key) in enumerate(zip(panels, CELLS, strict=False), start=1):
            _draw_spiking(axes, runs.get(key, ()), f"({number}) {spikes.model_name(*key)}")
        _draw_tensors(figure.axes[3], runs.get(OWN, ()))
        figure.supxlabel(
            f"“In every layer”: {answers[0].verdict}; “fewer on SlimPajama”: {answers[1].verdict}",
            fontsize=7.5,
            color=drawing.GREY,
            style="italic",
        )
    return figure


def spiking(seen: Observations, seed: int = 0) -> pd.DataFrame:
    """The trajectories, with scores, of up to DRAWN followed weights that spike, drawn by lot."""
    scored = scores(seen.trajectories)
    highest = scored.groupby("coordinate")["definition"].max()
    chosen = np.sort(highest.index[highest > THRESHOLD].to_numpy(np.int64))
    if len(chosen) > DRAWN:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, DRAWN, replace=False))
    return scored[scored["coordinate"].isin(chosen)]


def _draw_spiking(axes: Axes, runs: Sequence[ObservedRun], title: str) -> None:
    """Scores of spiking weights over steps, of the first seed that has any."""
    axes.set_title(title, pad=7)
    axes.set_xlabel("step")
    axes.set_ylabel("spike score")
    seen = spikes.seen_of(runs)
    if not seen:
        axes.set_xticks([])
        axes.set_yticks([])
        reason = "not asked for: it stands beside data=c4" if not runs else "no results yet"
        axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", color=drawing.GREY)
        return
    run, observations = seen[0]
    paths = spiking(observations)
    for _, path in paths.groupby("coordinate"):
        axes.plot(path["step"], path["definition"], lw=0.5, alpha=0.5, color=drawing.BLUE)
    axes.axhline(THRESHOLD, color=drawing.VERMILLION, ls=drawing.DASHES, lw=1)
    axes.set_ylim(bottom=0)
    followed, weights = paths["coordinate"].nunique(), len(observations.coordinates)
    axes.text(
        0.02,
        0.97,
        f"seed {run.seed}: {followed} of {weights:,} followed weights spike",
        transform=axes.transAxes,
        va="top",
        fontsize=7.5,
        color=drawing.GREY,
    )
    axes.set_ylim(top=1.15 * axes.get_ylim()[1])


def _draw_tensors(axes: Axes, runs: Sequence[ObservedRun]) -> None:
    """Spikes in each tensor, mean and seeds, as 1 + count on a logarithmic axis."""
    seen = spikes.seen_of(runs)
    unlike = spikes.unlike(one for _, one in seen)
    axes.set_title(f"(4) LLaMA-60M, by tensor{unlike}", pad=7)
    axes.set_xlabel("tensor, in the model's order")
    axes.set_ylabel("1 + spikes")
    if not seen:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no results yet", transform=axes.transAxes, ha="center")
        return
    counts = np.array([spikes.by_tensor(one).to_numpy(np.int64) for _, one in seen])
    axes.set_yscale("log")
    places = np.arange(counts.shape[1])
    axes.bar(places, counts.mean(axis=0), bottom=1, width=0.7, color=drawing.BLUE, alpha=0.35)
    for of_run in counts:
        axes.plot(places, 1 + of_run, "o", ms=2.4, color=drawing.INK, mew=0)
    axes.set_ylim(bottom=0.8)
    axes.set_xticks(range(0, counts.shape[1], 5))
