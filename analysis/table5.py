"""Table 5: at which steps the gradients of each layer spike around the bumps of the loss (App. B).

The paper lists bumps that it chose, and gradient spikes found in every fifth tensor near them. Here
every bump of every seed is taken, found by a stated rule, and asked whether spikes come before it
more often than by chance, and more often than after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import alignment, document, drawing, spikes
from analysis.alignment import LAYERS, REACH, WINDOWS, Aligned
from analysis.claims import Answer, Claim, Part
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.stats import Verdict, all_of
from spam_lab.config.schema import ScaleConfig

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

SOURCE = "Table 5, Appendix B"
CELLS = (("llama_60m", "adam"), ("llama_60m", "slimpajama"), ("pythia_70m", "adam"))
EVERY = 5
"""The paper shows every fifth tensor, 0th to 55th."""

PUBLISHED = (
    ("LLaMA-60M (C4)", "198", "196 to 199, 201, 202, 205, 278"),
    ("LLaMA-60M (SlimPajama)", "207, 328, 394", "205 to 207, 209, 210, 328, 392 to 394"),
    ("Pythia-70M (C4)", "358, 578", "357, 358, 571, 573, 574, 576 to 578"),
)
"""Model, steps of bumps, and all steps of spikes that the table prints for it."""

BEFORE = Claim(
    "table5.before",
    "Gradient spikes come before the bumps of the loss",
    f"{SOURCE}: “Gradient spikes typically occur before loss bumps, indicating that these gradient "
    "spikes may trigger loss bumps”",
)
LAYERED = Claim(
    "table5.layers",
    "Spikes of different layers come with the bumps",
    f"{SOURCE}: “Gradient spikes are presented in different layers associated with the loss bump”",
)


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table5`."""
    runs = spikes.observed_runs(frame)
    cells = [alignment.aligned(spikes.model_name(*key), runs.get(key, ())) for key in CELLS]
    answers = (alignment.come_before(BEFORE, cells), _layered(cells))
    table = alignment.bump_table(cells)
    return Exhibit(
        name="table5",
        title=f"Table 5 at scale {scale.name}: where gradients spike around loss bumps",
        summary=(
            f"The first steps of Adam on `{spikes.corpus(requests)}`"
            + ("" if cells[1].runs else "; SlimPajama is asked for beside `data=c4` alone")
            + f". Published beside ours ({SOURCE}), though its bumps were chosen by eye."
        ),
        figure=_figure(cells, answers, document.setting(requests)),
        table=table,
        answers=answers,
        sections=(
            Section("Steps of spikes near each bump, every fifth tensor", _steps(cells)),
            Section(
                "As published",
                document.table(["model", "loss bumps at", "spikes at, in any tensor"], PUBLISHED),
            ),
            Section("The same bumps in two architectures", _shared(cells)),
            Section(
                "Bumps with spikes before, at and after them",
                f"A bump of the loss is {alignment.LOSS_RULE}. A burst of spikes is the same in "
                "log(1 + spikes a step). In brackets, the number expected by chance and the "
                "one-sided p of the circular shift test, before any correction.\n\n"
                + alignment.kinds_table(cells),
            ),
            spikes.observed(requests),
            document.claims(answers),
            document.what_was_run(requests, frame),
            spikes.limits(
                scale,
                "With few tokens a batch, the loss differs from step to step mainly by how hard "
                "the batch is: such a bump has no cause that could come before it.",
            ),
            spikes.runs_behind(runs),
        ),
    )


def _layered(cells: Sequence[Aligned]) -> Answer:
    """More than one tensor has bursts at or before bumps more often than by chance."""
    parts = []
    for cell in cells:
        text = f"{cell.name}: tensors of more than one layer have spikes at or before bumps"
        if cell.obstacle or not cell.bumps:
            parts.append(Part(text, Verdict.UNDECIDED, cell.obstacle or "no run has a bump"))
            continue
        found = [name for name, _, p in alignment.significant_tensors(cell) if p < alignment.LEVEL]
        layers = {cell.layer_of(name) for name in found}
        shown = ", ".join(found) or "none"
        verdict = Verdict.HOLDS if len(layers) > 1 else Verdict.UNDECIDED
        parts.append(Part(text, verdict, f"more than by chance: {shown}"))
    return Answer(
        LAYERED,
        all_of([part.verdict for part in parts]),
        f"circular shift test of each tensor's bursts at a bump or up to {REACH} steps before it, "
        "one-sided 5 %, Holm over the model's tensors; holds if those of two layers or more "
        "(embedding and head are layers too) are more than by chance, else undecided",
        "",
        tuple(parts),
    )


def _steps(cells: Sequence[Aligned]) -> str:
    """A row a bump: in every fifth tensor, the steps near it at which any gradient spikes."""
    blocks = []
    for cell in cells:
        if not cell.runs:
            blocks.append(f"{cell.name}: {cell.obstacle}.")
            continue
        names = list(cell.runs[0][1].parameters["name"].astype(str))[::EVERY]
        headers = [f"{EVERY * place}th" for place in range(len(names))]
        rows = []
        for run, seen, found in cell.runs:
            counts = spikes.counted(seen).pivot(index="step", columns="name", values="count")
            for bump in found:
                near = counts.loc[max(1, bump.start - REACH) : bump.end + REACH, names]
                steps = [ranges(list(near.index[near[name] > 0])) for name in names]
                rows.append((run.seed, bump.peak, *steps))
        listed = ", ".join(f"{h} `{n}`" for h, n in zip(headers, names, strict=True))
        body = document.table(["seed", "bump", *headers], rows) if rows else "No run has a bump."
        blocks.append(f"**{cell.name}**: {listed}.\n\n{body}")
    return "\n\n".join(blocks)


def ranges(steps: Sequence[int]) -> str:
    """Steps in order as text, neighbours as one: "3 5–7"."""
    parts: list[list[int]] = []
    for step in steps:
        if parts and step == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], step]
        else:
            parts.append([step])
    return " ".join("–".join(map(str, part)) for part in parts) or "none"


def _shared(cells: Sequence[Aligned]) -> str:
    """Bumps that LLaMA and Pythia, which read the same batches, have at the same step."""
    llama, pythia = cells[0], cells[2]
    steps = {
        cell.name: {(run.seed, bump.peak) for run, _, found in cell.runs for bump in found}
        for cell in (llama, pythia)
    }
    both = sorted(steps[llama.name] & steps[pythia.name])
    shown = ", ".join(f"{step} (seed {seed})" for seed, step in both) or "none"
    return (
        f"Of {llama.bumps} bumps of {llama.name} and {pythia.bumps} of {pythia.name}, "
        f"{len(both)} have their highest step in common: {shown}. The two read the same batches in "
        "the same order and share nothing else, so the cause of a bump that both have is its "
        "batch, which no spike before it can have brought about."
    )


def _figure(cells: Sequence[Aligned], answers: Sequence[Answer], setting: str) -> Figure:
    with drawing.style():
        heights = [1.0 if cell.runs else 0.25 for cell in cells]
        figure = drawing.new_figure(
            7.4, 1.2 + 2.1 * sum(heights), f"Spikes around loss bumps, {setting}"
        )
        grid = figure.subplots(len(cells), 2, width_ratios=(3, 1), height_ratios=heights)
        for (left, right), cell in zip(grid, cells, strict=True):
            left.set_title(cell.name + spikes.unlike(seen for _, seen, _ in cell.runs), pad=7)
            if not cell.runs:
                for axes in (left, right):
                    axes.set_axis_off()
                reason = cell.obstacle
                left.text(0, 0.5, reason, transform=left.transAxes, fontsize=8, color=drawing.GREY)
                continue
            _draw_lags(left, cell)
            _draw_windows(right, cell)
        figure.supxlabel(
            f"Black lines: by chance. “Spikes come before the bumps”: {answers[0].verdict}; "
            f"“in different layers”: {answers[1].verdict}",
            fontsize=7.5,
            color=drawing.GREY,
            style="italic",
        )
    return figure


def _draw_lags(axes: Axes, cell: Aligned) -> None:
    """For each tensor and lag, the share of bumps with a spike of that tensor so many steps off."""
    reach = 2 * REACH
    names = list(cell.runs[0][1].parameters["name"].astype(str))
    share = np.zeros((len(names), 2 * reach + 1))
    for _, seen, found in cell.runs:
        for row, marked in enumerate(alignment.tensor_bursts(seen).values()):
            for bump in found:
                for lag in range(-reach, reach + 1):
                    step = bump.peak + lag
                    if 1 <= step <= len(marked):
                        share[row, lag + reach] += marked[step - 1]
    share = share / max(1, cell.bumps)
    image = axes.imshow(
        share,
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=max(0.2, share.max()),
        extent=(-reach - 0.5, reach + 0.5, len(names) - 0.5, -0.5),
        interpolation="nearest",
    )
    axes.axvline(0, color=drawing.VERMILLION, lw=0.6, ls=drawing.DASHES)
    axes.grid(False)
    axes.set_xlabel("steps after the bump's highest")
    axes.set_ylabel("tensor, in order")
    colours = axes.figure.colorbar(image, ax=axes, pad=0.02)
    colours.set_label("share of bumps", fontsize=7.5)


def _draw_windows(axes: Axes, cell: Aligned) -> None:
    """Bumps with bursts in the layers before, at and after them, beside what chance gives."""
    for place, window in enumerate(WINDOWS):
        chance = cell.chance(window, LAYERS)
        axes.bar(place, chance.seen, width=0.6, color=drawing.BLUE, alpha=0.45)
        axes.plot([place - 0.36, place + 0.36], [chance.expected] * 2, color=drawing.INK, lw=1.4)
        text = f"p={chance.more:.2g}"
        axes.text(
            place, max(chance.seen, chance.expected), text, ha="center", va="bottom", fontsize=7
        )
    axes.set_xticks(range(len(WINDOWS)), [window.name for window in WINDOWS])
    axes.set_title(f"{cell.bumps} bumps", pad=7, fontsize=8.5, fontweight="normal")
    axes.set_ylabel("bumps with bursts")
    axes.set_ylim(0, max(1.0, 1.25 * axes.get_ylim()[1]))
