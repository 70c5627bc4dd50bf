"""Figure 5: Adam with spiked gradients zeroed, over θ, and what one spike leaves in its moments.

The left panel is of runs, the other two of a simulation that needs none (`optim.spike_trace`). The
paper prints no value of the figure: its claims stand beside ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import document, drawing
from analysis.cell_table import Key, cell_table, note, shown_perplexity, shown_value
from analysis.claims import Answer, Claim, Part, every_pair
from analysis.document import Section
from analysis.drawing import BLUE, GREY, VERMILLION
from analysis.exhibit import Exhibit
from analysis.frames import cells as cells_of
from analysis.frames import rows_of
from analysis.kept import kept
from analysis.stats import Cell, Verdict, all_of
from spam_lab.config.schema import ScaleConfig
from spam_lab.optim import spike_trace
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

SOURCE = "Figure 5, Section 2.2"
NONE: Key = ("theta", None)

ZEROING = Claim(
    "figure5.zeroing",
    "Adam ends better where spiked gradients are set to zero, at every θ",
    f"{SOURCE}, left: “zeroing out these spiked gradients leads to improved model performance, "
    "evidenced by a reduction in perplexity”",
)
RECOVERY = Claim(
    "figure5.recovery",
    "A spike is gone from the first moment after about 50 steps, from the second not in 200",
    f"{SOURCE}, middle and right: “it takes approximately 50 steps for the first moment to recover "
    "from the spike, while the second moment takes significantly longer, with the effect "
    "persisting beyond 200 steps”",
)

BETAS = (0.9, 0.999)
SHARE = 0.01
"""A moment has recovered when this share of what the spike added to it is left, or less. The paper
states no rule."""
ABOUT_50 = (40, 60)
"""What we take for about 50 steps."""
BEYOND = 200
DRAWN, SIMULATED, SEED = 200, 5000, 0
"""Steps in the picture, as in the paper; steps until also the second moment has recovered."""


@dataclass(frozen=True)
class Simulation:
    """The gradients of both traces, and the steps after the spike to recover; None is never."""

    gradients: list[float]
    spiked: spike_trace.Moments
    clean: spike_trace.Moments
    first: int | None
    second: int | None


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `figure5`, and a simulation."""
    cells = cells_of(frame, cell_name)
    table = cell_table(frame, requests, cells, as_run)
    with kept(Path(frame["root"].iloc[0]), "simulation") as known:
        simulated = simulate(known)
    none = cells.get(NONE, Cell(cell_name(*NONE)))
    zeroed = [cell for key, cell in cells.items() if key != NONE]
    zeroing = every_pair(ZEROING, [(cell, none) for cell in zeroed], [*zeroed, none])
    answers = (zeroing, recovery_answer(simulated))
    return Exhibit(
        name="figure5",
        title=f"Figure 5 at scale {scale.name}: spikes, the final loss, and Adam's moments",
        summary=(
            "Mean validation perplexity of Adam with spiked gradients set to zero, with 95 % t "
            "interval over seeds, and a simulation of one spike in Adam's moments. The paper "
            f"prints no value of this figure ({SOURCE}), so its claims are what is compared."
        ),
        figure=_figure(cells, answers, simulated, document.setting(requests)),
        table=table,
        answers=answers,
        sections=(
            document.claims(answers),
            _values_section(cells, table),
            _simulation_section(simulated),
            document.what_was_run(requests, frame),
            document.limits(scale, answers, _zeroed(table)),
            document.runs_behind(cells, frame),
        ),
    )


def cell_name(panel: str, value: Value) -> str:
    """What a cell is called in sentences."""
    return "Adam without zeroing" if (panel, value) == NONE else f"zeroing at θ = {value}"


def as_run(request: Request) -> str:
    """The rule and θ, from the run's own config."""
    optimizer: Any = request.config.optimizer
    return "none" if optimizer.spike_rule == "none" else f"{optimizer.theta:g}"


def simulate(known: dict[str, Any]) -> Simulation:
    """The paper's simulation, and how long each moment takes to recover; what was traced is in
    `known`, and is added to it."""
    if not known:
        known.update(_traces())
    gradients = known["gradients"]
    spiked, clean = (spike_trace.Moments(*map(tuple, known[name])) for name in ("spiked", "clean"))
    first = spike_trace.recovery(spiked.exp_avg, clean.exp_avg, SHARE)
    second = spike_trace.recovery(spiked.exp_avg_sq, clean.exp_avg_sq, SHARE)
    return Simulation(gradients, spiked, clean, first, second)


def _traces() -> dict[str, Any]:
    """The gradients with the spike, and what both moments are after each step, as JSON keeps it."""
    gradients = spike_trace.gradients(SIMULATED, SEED)
    spiked = spike_trace.trace(gradients, BETAS)
    clean = spike_trace.trace(spike_trace.gradients(SIMULATED, SEED, spike=None), BETAS)
    return {
        "gradients": gradients,
        "spiked": [list(spiked.exp_avg), list(spiked.exp_avg_sq)],
        "clean": [list(clean.exp_avg), list(clean.exp_avg_sq)],
    }


def recovery_answer(simulated: Simulation) -> Answer:
    """The claim on recovery: a computation without chance but in the gradients, so no test."""
    low, high = ABOUT_50
    first, second = simulated.first, simulated.second
    parts = (
        Part(
            f"m has recovered after {low} to {high} steps",
            _verdict(first is not None and low <= first <= high),
            f"after {_steps(first)}",
        ),
        Part(
            f"v has not recovered {BEYOND} steps after the spike",
            _verdict(second is None or second > BEYOND),
            f"after {_steps(second)}",
        ),
    )
    return Answer(
        RECOVERY,
        all_of([part.verdict for part in parts]),
        f"computed: recovered is when {SHARE:.0%} of what the spike added is left, or less",
        f"m after {_steps(first)}, v after {_steps(second)}",
        parts,
    )


def _verdict(held: bool) -> Verdict:
    return Verdict.HOLDS if held else Verdict.FAILS


def _steps(count: int | None) -> str:
    return (
        f"more than {SIMULATED - spike_trace.SPIKE_STEP:,} steps"
        if count is None
        else (f"{count:,} steps")
    )


def _zeroed(table: pd.DataFrame) -> str:
    """How much the thresholds act here: a θ that zeroes nothing cannot matter."""
    parts = [
        f"{row['clipped_entries_mean']:,.0f} at θ = {row['value']}"
        for row in rows_of(table)
        if not pd.isna(row["clipped_entries_mean"])
        if row["as_run"] != "none"
    ]
    return f"Entries zeroed in a run, on average: {', '.join(parts)}." if parts else ""


def _figure(
    cells: Mapping[Key, Cell], answers: Sequence[Answer], simulated: Simulation, setting: str
) -> Figure:
    with drawing.style():
        figure = drawing.new_figure(7.4, 6.4, f"Spikes, the loss and Adam's moments, {setting}")
        grid = figure.add_gridspec(2, 2)
        left = figure.add_subplot(grid[0, 0])
        points = [
            drawing.Point(cell, shown_value(key[1])) for key, cell in cells.items() if key != NONE
        ]
        drawing.frame(
            left,
            [point.label for point in points],
            title="Adam, spikes set to zero",
            axis="θ, on g²/v",
            footer=f"“zeroing improves”: {answers[0].verdict}",
        )
        drawing.draw_panel(left, points, cells.get(NONE))
        _gradients(figure.add_subplot(grid[0, 1]), simulated)
        moments = (
            ("first moment m", simulated.spiked.exp_avg, simulated.clean.exp_avg, simulated.first),
            (
                "second moment v",
                simulated.spiked.exp_avg_sq,
                simulated.clean.exp_avg_sq,
                simulated.second,
            ),
        )
        for column, (title, spiked, clean, steps) in enumerate(moments):
            _moment(figure.add_subplot(grid[1, column]), title, spiked, clean, steps)
        drawing.add_legend(figure, setting=False)
    return figure


def _gradients(axes: Axes, simulated: Simulation) -> None:
    axes.set_title("Simulated gradients", pad=7)
    axes.set_xlabel("step")
    axes.set_ylabel("g")
    axes.plot(range(1, DRAWN + 1), simulated.gradients[:DRAWN], color=VERMILLION, lw=0.9)


def _moment(
    axes: Axes, title: str, spiked: Sequence[float], clean: Sequence[float], steps: int | None
) -> None:
    """A moment with and without the spike; where it has recovered, if that is in the picture."""
    axes.set_title(f"Its trace in the {title}", pad=7)
    axes.set_xlabel(f"step (recovered {_steps(steps)} after the spike)")
    axes.set_ylabel(title[-1])
    count = range(1, DRAWN + 1)
    axes.plot(count, spiked[:DRAWN], color=VERMILLION, lw=1.2, label="with the spike")
    axes.plot(count, clean[:DRAWN], color=BLUE, lw=1.0, label="without")
    end = math.inf if steps is None else spike_trace.SPIKE_STEP + steps
    if end <= DRAWN:
        axes.axvline(end, color=GREY, lw=0.9, ls=drawing.DASHES, label="recovered")
    axes.legend()


def _values_section(cells: Mapping[Key, Cell], table: pd.DataFrame) -> Section:
    rows = []
    for (key, cell), row in zip(cells.items(), rows_of(table), strict=True):
        zeroed = row["clipped_entries_mean"]
        rows.append(
            (
                "no zeroing" if key == NONE else shown_value(key[1]),
                len(cell.losses),
                shown_perplexity(cell),
                "–" if key == NONE or pd.isna(zeroed) else f"{zeroed:,.0f}",
                note(cell),
            )
        )
    body = document.table(["θ", "n", "perplexity", "entries zeroed a run", "remarks"], rows)
    return Section(
        "Values",
        f"{body}\n\nThe paper calls an entry a spike if its gradient is more than θ times the mean "
        "of its gradients over the whole training, which is known only afterwards. Here it is one "
        "if g² > θv, as SPAM finds them: θ = 2500 is 50 times the root mean square. No moment is "
        "ever reset, and after a few steps of grace at the start every step zeroes. The cell "
        "without zeroing is the same optimizer with its rule switched off.",
    )


def _simulation_section(simulated: Simulation) -> Section:
    first, second = BETAS
    step, at = spike_trace.SPIKE_STEP, DRAWN - 1
    rows = []
    moments = (
        ("m", first, simulated.spiked.exp_avg, simulated.clean.exp_avg, simulated.first),
        ("v", second, simulated.spiked.exp_avg_sq, simulated.clean.exp_avg_sq, simulated.second),
    )
    for name, beta, spiked, clean, steps in moments:
        added = spiked[step - 1] - clean[step - 1]
        rows.append(
            (
                name,
                f"{beta:g}",
                f"{clean[step - 1]:.4f}",
                f"{spiked[step - 1]:.4f}",
                f"{(spiked[at] - clean[at]) / added:.1%}",
                f"{math.ceil(math.log(SHARE) / math.log(beta)):,}",
                _steps(steps),
            )
        )
    headers = [
        "moment",
        "β",
        f"at step {step} without the spike",
        "with it",
        f"left of it at step {DRAWN}",
        "ln 0.01 / ln β",
        "recovered after",
    ]
    return Section(
        "The simulation",
        f"{document.table(headers, rows)}\n\nGradients are drawn from N({spike_trace.MEAN:g}, "
        f"{spike_trace.VARIANCE:g}) (the second is the variance) with seed {SEED}; that of step "
        f"{step} is {spike_trace.SPIKE:g}. The moments are those of torch's Adam in float64, "
        "without bias correction, at the paper's β whatever the scale. Both traces have the same "
        "gradients but one, and a moment has recovered when at most 1 % of what the spike added to "
        "it is left. What is left shrinks by β each step, so the answer depends on β and on the "
        "rule alone, not on the gradients; the paper states no rule.",
    )
