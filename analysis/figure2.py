"""Figure 2: bumps of the training loss and the gradient spikes that come with them (Section 2.1).

The paper circles bumps by hand and draws gradients; here bumps are found by a stated rule, in every
seed, and asked whether spikes coincide with them more often than by chance. The curves drawn are of
one seed a model, the one with the most spikes in its layers; the tests take all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import poisson

from analysis import alignment, document, drawing, spikes
from analysis.alignment import AT, Aligned
from analysis.bumps import Bump, in_noise
from analysis.claims import Answer, Claim, Part
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.spikes import THRESHOLD, ObservedRun
from analysis.stats import Verdict, all_of, holm
from spam_lab.config.schema import ScaleConfig
from spam_lab.record.observations import Observations, scores

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

SOURCE = "Figure 2, Section 2.1"
MODELS = ("llama_60m", "llama_350m", "llama_1b")
BUMPS = Claim(
    "figure2.bumps",
    "The training loss has bumps, at every size",
    f"{SOURCE}: “we do observe subtle loss bumps that happen quite frequently”",
)
COINCIDE = Claim(
    "figure2.coincide",
    "Gradient spikes coincide with the loss bumps, at every size",
    f"{SOURCE}: “we [...] observe that gradient spikes coincide with the loss bumps”",
)


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `figure2`."""
    runs = spikes.observed_runs(frame)
    cells = {m: alignment.aligned(spikes.model_name(m), runs.get((m, "adam"), ())) for m in MODELS}
    of_all = list(cells.values())
    answers = (_bumps(of_all), alignment.more_than_chance(COINCIDE, of_all, AT))
    table = alignment.bump_table(of_all)
    return Exhibit(
        name="figure2",
        title=f"Figure 2 at scale {scale.name}: loss bumps and gradient spikes",
        summary=(
            f"The first steps of Adam on `{spikes.corpus(requests)}`, three sizes. The paper "
            f"prints no values of this figure ({SOURCE}); its claims are what is compared."
        ),
        figure=_figure(cells, answers, document.setting(requests)),
        table=table,
        answers=answers,
        sections=(
            Section(
                "Bumps with spikes near them",
                f"A bump of the loss is {alignment.LOSS_RULE}. A burst of spikes is the same in "
                "log(1 + spikes a step). In brackets, the number expected by chance and the "
                "one-sided p of the circular shift test, before any correction.\n\n"
                + alignment.kinds_table(of_all),
            ),
            Section("Every bump", _every_bump(table)),
            spikes.observed(requests),
            document.claims(answers),
            document.what_was_run(requests, frame),
            spikes.limits(
                scale,
                "With few tokens a batch, the loss differs from step to step mainly by how hard "
                "the batch is.",
            ),
            spikes.runs_behind(runs),
        ),
    )


def _bumps(cells: Sequence[Aligned]) -> Answer:
    """More bumps than noise has, by a Poisson test, corrected over the sizes."""
    counts = [[len(found) for _, _, found in cell.runs] for cell in cells]
    expected = [
        sum(in_noise(alignment.LOSS_RULE, seen.about["steps"]) for _, seen, _ in cell.runs)
        for cell in cells
    ]
    p_values = holm(
        [float(poisson.sf(sum(n) - 1, mean)) for n, mean in zip(counts, expected, strict=True)]
    )
    parts = []
    for cell, by_seed, mean, p in zip(cells, counts, expected, p_values, strict=True):
        verdict, detail = Verdict.UNDECIDED, cell.obstacle
        if not detail:
            shown = ", ".join(map(str, by_seed))
            detail = f"by seed {shown}; {mean:.1f} in all in noise, Holm p={p:.2g}"
            verdict = Verdict.HOLDS if p < alignment.LEVEL else verdict
            verdict = Verdict.FAILS if sum(by_seed) == 0 else verdict
        parts.append(Part(f"{cell.name} has more bumps than noise has", verdict, detail))
    return Answer(
        BUMPS,
        all_of([part.verdict for part in parts]),
        f"a bump is {alignment.LOSS_RULE}; Poisson test, one-sided 5 %, against the mean of 50 "
        f"curves of independent normal noise, Holm over {len(cells)} sizes; fails where no run has "
        "a bump",
        "",
        tuple(parts),
    )


def _every_bump(table: pd.DataFrame) -> str:
    if table.empty:
        return "No run has a bump."
    rows = [
        (
            row["cell"],
            row["seed"],
            f"{row['start']} to {row['end']}" if row["start"] < row["end"] else row["start"],
            f"{row['height']:.2f}",
            row["bursts_near"] or "–",
        )
        for row in table.to_dict("records")
    ]
    headers = ["cell", "seed", "steps", "height", f"spikes burst within {alignment.REACH} steps"]
    return document.table(headers, rows)


def _figure(cells: Mapping[str, Aligned], answers: Sequence[Answer], setting: str) -> Figure:
    with drawing.style():
        figure = drawing.new_figure(7.4, 6.6, f"Loss bumps and gradient spikes, {setting}")
        grid = figure.subplots(3, len(MODELS), sharex="col")
        for column, cell in enumerate(cells.values()):
            top, middle, bottom = grid[:, column]
            chosen = _chosen(cell)
            top.set_title(cell.name, pad=7)
            bottom.set_xlabel("step")
            if chosen is None:
                for axes in (top, middle, bottom):
                    axes.set_xticks([])
                    axes.set_yticks([])
                top.text(0.5, 0.5, "no results yet", transform=top.transAxes, ha="center")
                continue
            run, seen, found = chosen
            top.set_title(f"{cell.name}, seed {run.seed}", pad=7)
            _draw_loss(top, seen, [bump.peak for bump in found])
            _draw_counts(middle, seen)
            _draw_gradient(bottom, seen)
            for axes in (middle, bottom):
                for bump in found:
                    axes.axvline(bump.peak, color=drawing.VERMILLION, lw=0.6, alpha=0.45, zorder=0)
        for axes, label in zip(
            grid[:, 0], ("training loss", "spikes in the layers", "a spiking gradient"), strict=True
        ):
            axes.set_ylabel(label)
        figure.supxlabel(
            f"circles and red lines: loss bumps; “every size has bumps”: {answers[0].verdict}; "
            f"“spikes coincide with them”: {answers[1].verdict}",
            fontsize=7.5,
            color=drawing.GREY,
            style="italic",
        )
    return figure


def _chosen(cell: Aligned) -> tuple[ObservedRun, Observations, list[Bump]] | None:
    """The run with the most spikes in its layers, of several the one of the lowest seed."""
    if not cell.runs:
        return None
    return max(cell.runs, key=lambda of: (spikes.spikes(of[1], alignment.LAYERS), -of[0].seed))


def _draw_loss(axes: Axes, seen: Observations, peaks: Sequence[int]) -> None:
    losses = seen.losses()
    axes.plot(losses.index, losses, color=drawing.BLUE, lw=0.6)
    axes.plot(
        peaks,
        losses.reindex(pd.Index(peaks)),
        "o",
        ms=7,
        mfc="none",
        mec=drawing.VERMILLION,
        mew=1.1,
        lw=0,
    )


def _draw_counts(axes: Axes, seen: Observations) -> None:
    """Spikes a step in attention, feed-forward and norms, where there are any."""
    counts = spikes.by_step(seen, alignment.LAYERS)
    steps = np.flatnonzero(counts) + 1
    axes.vlines(steps, 0, counts[steps - 1], color=drawing.INK, lw=1)
    axes.plot(steps, counts[steps - 1], "o", ms=2.4, color=drawing.INK, lw=0)
    axes.set_ylim(0, max(1.2 * counts.max(), 1))
    reading = spikes.READING_NAMES[spikes.reading_of(seen)]
    _note(axes, f"by {reading}" if reading[0].islower() else reading)
    if not len(steps):
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color=drawing.GREY)


def _draw_gradient(axes: Axes, seen: Observations) -> None:
    """The gradient of the followed weight of the layers whose score is highest."""
    coordinates = seen.coordinates
    inside = coordinates[coordinates["kind"].astype(str).isin(alignment.LAYERS)]
    scored = scores(seen.trajectories[seen.trajectories["coordinate"].isin(inside["coordinate"])])
    scored = scored.dropna(subset=["definition"])
    if scored.empty:
        return
    place = int(scored["definition"].to_numpy().argmax())
    score, coordinate = scored["definition"].iloc[place], scored["coordinate"].iloc[place]
    path = scored[scored["coordinate"] == coordinate]
    axes.plot(path["step"], path["gradient"], color=drawing.BLUE, lw=0.6)
    passed = ">" if score > THRESHOLD else "<"
    _note(axes, f"score {score:.0f} {passed} {THRESHOLD:g}")
    axes.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)


def _note(axes: Axes, words: str) -> None:
    """Small words above a panel's right end."""
    where = axes.transAxes
    text = axes.text(1.0, 1.02, words, transform=where, ha="right", va="bottom", fontsize=7.5)
    text.set_color(drawing.GREY)
