"""Fine-tuned accuracies: cells of errors, their comparisons in points, and what the runs were.

Tables 13 and 15 share it. What is recorded and tested is the error in [0, 1], the smaller the
better; what is shown is the accuracy in percent. Beside it stands the chance of guessing, so that
nobody takes a model that has learned nothing for one that has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes

from analysis import document, drawing
from analysis.accuracies import accuracy, difference
from analysis.cell_table import Key
from analysis.claims import Answer, Claim, Part
from analysis.document import Section
from analysis.frames import rows_of
from analysis.stats import Cell, Comparison, Estimate, all_of, compare, corrected
from spam_lab.config.schema import ScaleConfig

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

ERROR = "validation/error"

CHANCE = {
    "boolq": 1 / 2,
    "piqa": 1 / 2,
    "social_iqa": 1 / 3,
    "hellaswag": 1 / 4,
    "winogrande": 1 / 2,
    "arc_easy": 1 / 4,
    "arc_challenge": 1 / 4,
    "openbookqa": 1 / 4,
    "copa": 1 / 2,
}
"""What guessing answers rightly; a few questions of ARC have three or five choices."""


def answer(claim: Claim, pairs: Sequence[tuple[Cell, Cell]]) -> Answer:
    """The first cell of every pair has the fewer errors."""
    tested = corrected([compare(better, worse) for better, worse in pairs])
    return Answer(
        claim,
        all_of([comparison.verdict for comparison in tested]),
        "paired t test on the error over common seeds, two-sided 95 %, Holm over "
        f"{len(tested)} comparisons; holds if every pair holds, fails if any fails",
        "",
        tuple(_part(comparison) for comparison in tested),
        tested=tuple(tested),
    )


def _part(comparison: Comparison) -> Part:
    text = f"{comparison.better.name} has fewer errors than {comparison.worse.name}"
    found = comparison.difference
    if found is None:
        return Part(text, comparison.verdict, comparison.reason)
    low, mean, high = (100 * value for value in (found.low, found.mean, found.high))
    effect = "" if math.isnan(found.effect) else f"d_z {found.effect:+.2f}, "
    return Part(
        text,
        comparison.verdict,
        f"difference in error {mean:+.2f} [{low:+.2f}, {high:+.2f}] points, {effect}"
        f"n={found.n}, p={found.p:.4f}, Holm p={comparison.adjusted_p:.4f}",
    )


def shown(estimate: Estimate | None) -> str:
    """A mean in percent with its half-width, or a dash."""
    if estimate is None:
        return "–"
    half = f" ± {estimate.half_width:.1f}" if estimate.has_interval else ""
    return f"{estimate.mean:.1f}{half}"


def gain(cell: Cell | None, other: Cell | None) -> str:
    """How many points of accuracy a cell is ahead of another, paired by seed."""
    found = difference(cell, other)
    if found is None:
        return "–"
    # Plus 0: a tie is +0.0, not -0.0.
    mean, low, high = (round(-100 * v, 1) + 0.0 for v in (found.mean, found.high, found.low))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def runs_of(frame: pd.DataFrame, key: Key) -> list[dict[str, Any]]:
    """The rows of one cell."""
    return [row for row in rows_of(frame) if (row["panel"], row["value"]) == key]


def mean_of(frame: pd.DataFrame, key: Key, metric: str) -> float:
    """The mean of a metric over the finished runs of a cell; NaN where there is none."""
    found = [
        row["values"].get(metric, math.nan) for row in runs_of(frame, key) if row["state"] == "done"
    ]
    return sum(found) / len(found) if found else math.nan


def columns(frame: pd.DataFrame, key: Key, cell: Cell) -> dict[str, Any]:
    """What the table says of any cell: counts, the mean accuracy, and the runs behind it."""
    estimate = accuracy(cell)
    rows = runs_of(frame, key)
    return {
        "panel": key[0],
        "value": key[1],
        "runs": cell.seeds,
        "n": len(cell.losses),
        "diverged": len(cell.diverged),
        "incomplete": len(cell.incomplete),
        "accuracy_mean": estimate.mean if estimate else math.nan,
        "accuracy_half_width_95": estimate.half_width if estimate else math.nan,
        "accuracy_normalised_mean": 100 * mean_of(frame, key, "validation/accuracy_normalised"),
        "answer_loss_mean": mean_of(frame, key, "validation/loss"),
        "errors": " ".join(f"{seed}:{cell.losses[seed]:.6f}" for seed in sorted(cell.losses)),
        "cell_id": cell.cell_id,
        "run_ids": " ".join(row["run_id"] for row in rows),
    }


def draw_ours(axes: Axes, cells: Sequence[Cell | None], labels: Sequence[str], own: int) -> None:
    """Mean accuracies with their intervals and every seed; the place `own` is the paper's method's
    setting."""
    axes.set_ylabel("accuracy, %")
    drawn = False
    for place, cell in enumerate(cells):
        estimate = accuracy(cell)
        if cell is None or estimate is None:
            word = "diverged" if cell is not None and cell.diverged else "no result"
            axes.annotate(
                word,
                (place, 0.02),
                xycoords=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=7,
                color=drawing.GREY,
            )
            continue
        drawn = True
        marker, colour = ("D", drawing.VERMILLION) if place == own else ("o", drawing.BLUE)
        seeds = [100 * (1 - error) for error in cell.losses.values()]
        drawing.draw_seeds(axes, place + 0.17, seeds)
        drawing.draw_mean(
            axes, place, estimate, colour=colour, marker=marker, whole=not cell.incomplete
        )
    if not drawn:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no results yet", transform=axes.transAxes, ha="center")
    axes.set_xticks(range(len(labels)), list(labels))
    axes.margins(y=0.15)


def draw_chance(axes: Axes, chance: float) -> None:
    """The accuracy of guessing as a line, if it lies near what is drawn."""
    axes.axhline(100 * chance, color=drawing.INK, ls=drawing.DASHES, lw=1, zorder=1)
    axes.annotate(
        "guessing",
        (0.995, 100 * chance),
        (0, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=7,
        color=drawing.INK,
    )


def what_was_run(
    requests: Sequence[Request], frame: pd.DataFrame, names: Mapping[str, str]
) -> Section:
    """Model, rows, lengths and hyperparameters of each cell, from the runs' own configs."""
    rows, never = {}, []
    for request in requests:
        task: Any = request.config.task
        optimizer: Any = request.config.optimizer
        if hasattr(optimizer, "delta_t"):
            resets = request.config.schedule.steps // optimizer.delta_t
            if not resets:
                never.append(names[str(request.labels["value"])])
            intervals = f"ΔT {optimizer.delta_t}, N {optimizer.warmup_steps}, "
            intervals += f"θ {optimizer.theta:g}: {resets} reset{'s' * (resets != 1)}"
        else:
            intervals = f"rank {optimizer.rank}" if hasattr(optimizer, "rank") else "–"
        rows[request.labels["panel"], request.labels["value"]] = (
            ", ".join(task.tasks) if len(task.tasks) < 3 else f"{len(task.tasks)} tasks",
            names[str(request.labels["value"])],
            f"{task.weights}, {f'first {task.layers} layers' if task.layers else 'all layers'}",
            task.batch_size,
            f"{request.config.schedule.steps:,}",
            _limit(task.training_rows),
            _limit(task.test_rows),
            f"{optimizer.lr:g}",
            intervals,
        )
    runs = frame.drop_duplicates("run_id")
    states = ", ".join(f"{n} {state}" for state, n in sorted(runs["state"].value_counts().items()))
    seeds = ", ".join(str(seed) for seed in sorted({request.seed for request in requests}))
    headers = ["tasks", "method", "weights", "batch", "steps", "training rows a task at most"]
    headers += ["test rows a task at most", "peak lr", "hyperparameters"]
    return Section(
        "What was run",
        f"Scale `{requests[0].config.scale.name}`, seeds {seeds}, precision "
        f"`{requests[0].config.precision.name}`. {len(runs)} runs ({states}). No learning rate was "
        "tuned: SPAM's intervals and rates are Table 8's, mapped to this scale; Adam has SPAM's "
        "rate, the paper printing none; the low-rank methods have those of their own scripts. The "
        "low-rank methods are this project's own, not peft's.\n\n"
        + document.table(headers, list(rows.values()))
        + _never_reset(dict.fromkeys(never)),
    )


def _never_reset(names: Iterable[str]) -> str:
    """What cells whose runs are shorter than ΔT can say of SPAM."""
    if not (listed := "; ".join(names)):
        return ""
    return (
        f"\n\nEnded before the first reset: {listed}. What is seen of SPAM there is its rule "
        "for spikes, and at a density below 100 % one choice of weights."
    )


def limits(
    scale: ScaleConfig, requests: Sequence[Request], answers: Sequence[Answer], paper: str
) -> Section:
    """What this scale can decide; `paper` says what the paper's runs had."""
    tasks: list[Any] = [request.config.task for request in requests]
    few = [task.test_rows * len(task.tasks) for task in tasks if task.test_rows]
    opening = (
        "The paper's setting, but for what it does not print."
        if scale.name == "paper"
        else f"Scale `{scale.name}` is not the paper's setting ({paper}). A verdict here is about "
        "this scale; it neither confirms nor refutes the paper."
    )
    if few:
        noise = 100 * math.sqrt(0.25 / min(few))
        opening += (
            f" A run is tested on at most {min(few)} questions: the standard error of one accuracy "
            f"of a half is {noise:.1f} points, so differences of a few points are noise. The "
            "questions are the same for all runs, and the t test sees the seeds' spread alone."
        )
    widths = [
        100 * (comparison.difference.high - comparison.difference.low) / 2
        for one in answers
        for comparison in one.behind
        if comparison.difference is not None
    ]
    power = (
        f"The interval of a paired difference is here ± {median(widths):.1f} points (median over "
        f"{len(widths)} comparisons)."
        if widths
        else document.NOT_TESTED
    )
    return Section("What this scale can decide", f"{opening} {power}")


def _limit(count: int | None) -> str:
    return "all" if count is None else f"{count:,}"
