"""Table 14: milliseconds an iteration with each optimizer, beside Adam and the paper (Appendix L).

Every time is divided by Adam's of the same sweep, seed by seed; times of different machines never
share an axis. A run is 120 iterations; its time is the loop's mean over the last 100. The times are
of whole iterations as trained: data, forward and backward pass, and the optimizer, whose share is
given beside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import document, drawing, paper
from analysis.cell_table import Key, note
from analysis.claims import Answer, Part
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import cells as cells_of
from analysis.frames import rows_of
from analysis.stats import (
    Cell,
    Comparison,
    Difference,
    Estimate,
    all_of,
    compare,
    corrected,
    mean_interval,
    paired_difference,
)
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

ADAM = "adam"
WINDOW = 100
"""Iterations that the loop's mean is over (`spam_lab.train.timing.WINDOW`, which needs torch)."""

BOUND = 0.10
NO_TIME = "done without a time"
TICKS = {
    "adam_mini": "Adam-\nmini",
    "adafactor": "Ada-\nfactor",
    "galore": "GaLore",
    "spam": "SPAM\nd=1",
    "spam_sparse": "SPAM\nd=0.25",
}


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table14`."""
    cells = timed_cells(frame)
    answer = _answer(cells)
    return Exhibit(
        name="table14",
        title=f"Table 14 at scale {scale.name}: what an iteration costs",
        summary=(
            f"Mean milliseconds an iteration over the last {WINDOW} of a run, with 95 % t interval "
            f"over seeds, and the paper's seconds on one H100 ({paper.TABLE14_SOURCE}). Compare "
            "the multiples of Adam, not the times: machine, batch and model size differ wherever "
            "this scale is not `paper`."
        ),
        figure=_figure(cells, answer, document.setting(requests)),
        table=_table(frame, requests, cells),
        answers=(answer,),
        sections=(
            _values(frame, cells),
            document.claims((answer,)),
            _in_the_window(requests),
            document.what_was_run(requests, frame),
            _limits(scale, cells),
            document.runs_behind(cells, frame),
        ),
    )


def timed_cells(frame: pd.DataFrame) -> dict[Key, Cell]:
    """The runs by (model, method); a cell's `losses` are logarithms of milliseconds.

    So the mean "perplexity" of such a cell is its mean time, and the ratio of two is one of times.
    """
    times: dict[Key, dict[int, float]] = {}
    for row in rows_of(frame):
        known = times.setdefault((row["panel"], row["value"]), {})
        if row["state"] == "done" and row["step_seconds"] > 0:
            known[row["seed"]] = math.log(1e3 * row["step_seconds"])
    return {
        key: replace(
            cell,
            losses=times[key],
            incomplete={
                **cell.incomplete,
                **dict.fromkeys(cell.losses.keys() - times[key].keys(), NO_TIME),
            },
        )
        for key, cell in cells_of(frame, cell_name).items()
    }


def cell_name(panel: str, value: Value) -> str:
    """What a cell is called in sentences."""
    return f"{paper.TABLE14_NAMES[str(value)]} ({_model_name(panel)})"


def over_adam(cells: Mapping[Key, Cell], key: Key) -> Difference | None:
    """The difference to Adam in log time, paired by seed; None without two common seeds."""
    panel, value = key
    adam = cells.get((panel, ADAM))
    if adam is None or value == ADAM or len(adam.losses.keys() & cells[key].losses.keys()) < 2:
        return None
    return paired_difference(cells[key].losses, adam.losses)


def _model_name(panel: str) -> str:
    return panel.replace("llama_", "LLaMA-").replace("m", "M")


def _answer(cells: Mapping[Key, Cell]) -> Answer:
    """SPAM's time is below Adam's times 1 + BOUND, by a test on the logarithm."""
    comparisons = []
    for panel in paper.TABLE14:
        adam = cells.get((panel, ADAM), Cell(cell_name(panel, ADAM)))
        slower = replace(
            adam,
            name=f"{adam.name} + {BOUND:.0%}",
            losses={seed: loss + math.log1p(BOUND) for seed, loss in adam.losses.items()},
        )
        for value in ("spam", "spam_sparse"):
            spam = cells.get((panel, value), Cell(cell_name(panel, value)))
            comparisons.append(compare(spam, slower))
    tested = corrected(comparisons)
    return Answer(
        paper.table14_overhead(BOUND),
        all_of([comparison.verdict for comparison in tested]),
        "paired t test on the logarithm of the time over common seeds, two-sided 95 %, Holm over "
        f"{len(tested)} comparisons: holds if every multiple of Adam's time lies below "
        f"{1 + BOUND:.2f} with its interval, fails if any lies above it",
        "",
        tuple(_part(comparison) for comparison in tested),
        tested=tuple(tested),
    )


def _part(comparison: Comparison) -> Part:
    text = f"{comparison.better.name} takes less time than {comparison.worse.name}"
    difference = comparison.difference
    if difference is None:
        return Part(text, comparison.verdict, comparison.reason)
    low, mean, high = (
        math.exp(value + math.log1p(BOUND))
        for value in (difference.low, difference.mean, difference.high)
    )
    return Part(
        text,
        comparison.verdict,
        f"{mean:.3f} x Adam [{low:.3f}, {high:.3f}], n={difference.n}, "
        f"Holm p={comparison.adjusted_p:.4f}",
    )


def _shares(frame: pd.DataFrame, key: Key) -> Estimate | None:
    """The optimizer's part of an iteration in percent, over the finished runs of a cell."""
    shares = [
        100 * row["optimizer_seconds"] / row["step_seconds"]
        for row in rows_of(frame)
        if (row["panel"], row["value"]) == key
        and row["state"] == "done"
        and row["step_seconds"] > 0
        and row["optimizer_seconds"] >= 0
    ]
    return mean_interval(shares) if shares else None


def _table(
    frame: pd.DataFrame, requests: Sequence[Request], cells: Mapping[Key, Cell]
) -> pd.DataFrame:
    run_ids: dict[Key, list[str]] = {}
    for row in rows_of(frame):
        run_ids.setdefault((row["panel"], row["value"]), []).append(row["run_id"])
    first: dict[Key, Request] = {}
    for request in requests:
        first.setdefault((str(request.labels["panel"]), request.labels["value"]), request)
    rows = []
    for key, cell in cells.items():
        time, share, ratio = cell.perplexity, _shares(frame, key), over_adam(cells, key)
        published = paper.TABLE14[key[0]]
        paper_seconds = float(published[str(key[1])])
        rows.append(
            {
                "panel": key[0],
                "value": key[1],
                "as_run": first[key].config.optimizer.name,
                "model": first[key].config.model.name,
                "runs": cell.seeds,
                "n": len(cell.losses),
                "diverged": len(cell.diverged),
                "incomplete": len(cell.incomplete),
                "milliseconds_mean": time.mean if time else math.nan,
                "milliseconds_half_width_95": time.half_width if time else math.nan,
                "optimizer_percent_mean": share.mean if share else math.nan,
                "optimizer_percent_half_width_95": share.half_width if share else math.nan,
                "times_adam": ratio.ratio if ratio else math.nan,
                "times_adam_low_95": math.exp(ratio.low) if ratio else math.nan,
                "times_adam_high_95": math.exp(ratio.high) if ratio else math.nan,
                "paper_seconds": paper_seconds,
                "paper_times_adam": paper_seconds / float(published[ADAM]),
                "cell_id": cell.cell_id,
                "run_ids": " ".join(run_ids[key]),
            }
        )
    return pd.DataFrame(rows)


def _values(frame: pd.DataFrame, cells: Mapping[Key, Cell]) -> Section:
    rows = []
    for key, cell in cells.items():
        published = paper.TABLE14[key[0]]
        seconds = published[str(key[1])]
        ratio, remark = over_adam(cells, key), note(cell)
        shown = _shown(cell.perplexity, 1)
        rows.append(
            (
                _model_name(key[0]),
                paper.TABLE14_NAMES[str(key[1])],
                f"{shown} ({remark})" if remark else shown,
                _shown(_shares(frame, key), 1),
                _shown_ratio(key, ratio),
                seconds,
                f"{float(seconds) / float(published[ADAM]):.3f}",
            )
        )
    headers = ["model", "optimizer", "ms an iteration", "optimizer's share, %", "x Adam [95 %]"]
    return Section("Values", document.table([*headers, "paper, s", "paper, x Adam"], rows))


def _shown(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return "–"
    half = f" ± {estimate.half_width:.{digits}f}" if estimate.has_interval else ""
    return f"{estimate.mean:.{digits}f}{half}"


def _shown_ratio(key: Key, ratio: Difference | None) -> str:
    if ratio is None:
        return "1" if key[1] == ADAM else "–"
    return f"{ratio.ratio:.3f} [{math.exp(ratio.low):.3f}, {math.exp(ratio.high):.3f}]"


def _in_the_window(requests: Sequence[Request]) -> Section:
    """Rare and dear events among the timed iterations: they decide what a mean means."""
    rows = {}
    for request in requests:
        optimizer: Any = request.config.optimizer
        last = request.config.schedule.steps
        # SPAM resets at call j dT, GaLore decomposes at call j T + 1.
        for field, event, shift in (("delta_t", "resets", 0), ("update_interval", "bases", 1)):
            interval = getattr(optimizer, field, None)
            if interval:
                timed = range(max(1, last - WINDOW + 1), last + 1)
                count = sum((call - shift) % interval == 0 and call > shift for call in timed)
                name = cell_name(str(request.labels["panel"]), request.labels["value"])
                rows[name] = (name, f"{event} every {interval}", count)
    return Section(
        "What fell into the timed iterations",
        "A reset draws new masks, and GaLore finds new bases by singular value decomposition: rare "
        "steps that cost more than the others, and that the mean counts. The paper does not say "
        "whether its 100 iterations held any.\n\n"
        + document.table(["cell", "what", f"in the last {WINDOW}"], list(rows.values())),
    )


def _limits(scale: ScaleConfig, cells: Mapping[Key, Cell]) -> Section:
    widths = [
        (math.exp(ratio.high) - math.exp(ratio.low)) / 2
        for key in cells
        if (ratio := over_adam(cells, key)) is not None
    ]
    power = (
        f"The widest interval of a multiple of Adam is here ± {max(widths):.3f}."
        if widths
        else "No multiple has an interval here."
    )
    return Section(
        "What this scale can decide",
        f"Scale `{scale.name}`. A time belongs to the machine it was taken on. Where the model is "
        "small or the processor slow, the optimizer's share is another than on the paper's H100 "
        "with 131,072 tokens an iteration: a verdict is about this machine and this scale. Runs "
        "that share a machine with others, each other included, are slowed by them, unevenly: "
        "use `cluster.workers=1` on an idle machine. What an optimizer's step costs by itself, on "
        f"the tensors of the paper's sizes, is measured by `spam-lab bench optimizers`. {power}",
    )


def _figure(cells: Mapping[Key, Cell], answer: Answer, setting: str) -> Figure:
    panels = list(dict.fromkeys(panel for panel, _ in cells))
    with drawing.style():
        title = f"What an iteration costs, {setting}, and as published"
        figure = drawing.new_figure(7.4, 0.9 + 2.7 * len(panels), title)
        grid = figure.subplots(len(panels), 2, squeeze=False)
        for (ours, published), panel in zip(grid, panels, strict=True):
            values = [value for value in TICKS if (panel, value) in cells]
            points = [
                drawing.Point(cells[panel, value], TICKS[value], joined=False) for value in values
            ]
            drawing.frame(
                ours,
                [point.label for point in points],
                title=f"Ours, {_model_name(panel)}",
                axis="",
                footer=f"“at most {BOUND:.0%} over Adam”, both sizes: {answer.verdict}",
            )
            drawing.draw_panel(ours, points, cells.get((panel, ADAM)))
            ours.set_ylabel("milliseconds an iteration")
            _draw_published(published, panel)
        _add_legend(figure)
    return figure


def _draw_published(axes: Axes, panel: str) -> None:
    """The paper's single values on an axis of their own; they have no interval."""
    published = paper.TABLE14[panel]
    drawing.frame(
        axes,
        list(TICKS.values()),
        title=f"Published, {_model_name(panel)}",
        axis="",
        footer=f"one H100, as printed, without intervals ({paper.TABLE14_SOURCE})",
    )
    axes.plot(
        range(len(TICKS)), [float(published[v]) for v in TICKS], "o", ms=5.5, color=drawing.BLUE
    )
    axes.axhline(float(published[ADAM]), color=drawing.INK, ls=drawing.DASHES, lw=1, zorder=1)
    axes.set_ylabel("seconds an iteration")


def _add_legend(figure: Figure) -> None:
    looks: dict[str, dict[str, Any]] = {
        "mean, 95 % interval": {"color": drawing.BLUE, "marker": "o", "lw": 1.2, "markersize": 5.5},
        "one seed": {"color": drawing.GREY, "marker": "o", "lw": 0, "markersize": 2.8},
        "Adam, 95 % band": {"color": drawing.INK, "ls": drawing.DASHES, "lw": 1},
    }
    figure.legend(
        handles=[Line2D([], [], label=label, **look) for label, look in looks.items()],
        loc="outside lower center",
        ncols=len(looks),
    )
