"""Table 9: SPAM beside AdamW on images, at a quarter, half, three quarters and the end of training.

Ours stands beside the paper's, as curves and as numbers; accuracies of different data sets never
share an axis. What is tested is the error at the end, paired by seed: whether SPAM's is smaller,
and whether it is at most MARGIN points larger, which is how "on par or better" is read here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import document, paper_table9
from analysis.accuracies import Curves, accuracy, difference, evaluation_at
from analysis.cell_table import Key
from analysis.claims import Answer, Claim, Part
from analysis.curves import curves_of
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import cells as cells_of
from analysis.frames import rows_of
from analysis.paper_table9 import ACCURACY, FRACTIONS, METHODS, MODELS
from analysis.stats import (
    Cell,
    Comparison,
    Difference,
    Estimate,
    all_of,
    compare,
    corrected,
)
from analysis.table9_figure import figure
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

ERROR = "validation/error"
AVERAGED = "validation/ema_error"
MARGIN = 0.01
"""How much more error counts as on par: one percentage point."""


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table9`."""
    cells = cells_of(frame, cell_name, ERROR)
    curves = curves_of(frame, cells, ERROR)
    averaged = cells_of(frame, cell_name, AVERAGED)
    steps = {str(r.labels["panel"]): r.config.schedule.steps for r in requests}
    answers = (
        _answer(paper_table9.BETTER, cells, 0.0),
        _answer(paper_table9.on_par(_points(MARGIN)), cells, MARGIN),
    )
    return Exhibit(
        name="table9",
        title=f"Table 9 at scale {scale.name}: SPAM and AdamW on images",
        summary=(
            "Validation accuracy in percent, mean with 95 % t interval over seeds, after each "
            f"quarter of training, beside the paper's ({paper_table9.SOURCE}), which has no "
            "intervals. Compare the differences between the optimizers, not the accuracies: "
            "images and models differ wherever this scale is not `paper`."
        ),
        figure=figure(curves, steps, answers, document.setting(requests)),
        table=_table(frame, cells, curves, steps),
        answers=answers,
        sections=(
            _quarters(curves, steps),
            _ends(cells, averaged),
            document.claims(answers),
            _what_was_run(requests, frame),
            _limits(scale, requests, cells),
            document.runs_behind(cells, frame),
        ),
    )


def cell_name(panel: str, value: Value) -> str:
    """What a cell is called in sentences."""
    return f"{METHODS[str(value)]} ({MODELS[panel]})"


def _answer(claim: Claim, cells: Mapping[Key, Cell], margin: float) -> Answer:
    """SPAM's error is below AdamW's plus `margin`, on every model."""
    comparisons = []
    for panel in MODELS:
        spam, adamw = (
            cells.get((panel, method), Cell(cell_name(panel, method)))
            for method in ("spam", "adamw")
        )
        allowed = {seed: error + margin for seed, error in adamw.losses.items()}
        comparisons.append(compare(spam, replace(adamw, losses=allowed)))
    tested = corrected(comparisons)
    below = f"AdamW's plus {_points(margin)}" if margin else "AdamW's"
    return Answer(
        claim,
        all_of([comparison.verdict for comparison in tested]),
        "paired t test on the error at the end over common seeds, two-sided 95 %, Holm over "
        f"{len(tested)} comparisons; holds if SPAM's error lies below {below} on both models, "
        "fails if it lies above on any",
        "",
        tuple(_part(comparison, margin) for comparison in tested),
        tested=tuple(tested),
        is_ratio=False,
    )


def _part(comparison: Comparison, margin: float) -> Part:
    fewer = f"at most {_points(margin)} more" if margin else "fewer"
    text = f"{comparison.better.name} has {fewer} errors than {comparison.worse.name}"
    found = comparison.difference
    if found is None:
        return Part(text, comparison.verdict, comparison.reason)
    low, mean, high = (100 * (value + margin) for value in (found.low, found.mean, found.high))
    # The size of an effect is that of the difference itself, which a margin moves.
    sized = not margin and math.isfinite(found.effect)
    effect = f"d_z {found.effect:+.2f}, " if sized else ""
    return Part(
        text,
        comparison.verdict,
        f"SPAM's error less AdamW's: {mean:+.2f} [{low:+.2f}, {high:+.2f}] points, {effect}"
        f"n={found.n}, p={found.p:.4f}, Holm p={comparison.adjusted_p:.4f}",
    )


def _points(margin: float) -> str:
    points = 100 * margin
    return f"{points:g} point{'s' * (points != 1)}"


def _quarters(curves: Curves, steps: Mapping[str, int]) -> Section:
    """The paper's table, ours beside it, with the difference that pairing by seed gives."""
    rows = []
    for panel in steps:
        for place, fraction in enumerate(FRACTIONS):
            step = evaluation_at(curves, panel, fraction, steps[panel])
            adamw, spam = (curves.get((panel, m), {}).get(step) for m in ("adamw", "spam"))
            published = [ACCURACY[panel, method][place] for method in ("adamw", "spam")]
            rows.append(
                (
                    MODELS[panel],
                    f"{fraction:.0%}",
                    step or "–",
                    _shown(accuracy(adamw)),
                    _shown(accuracy(spam)),
                    _shown_gain(difference(spam, adamw)),
                    *(_printed(value) for value in published),
                    _printed_gain(*published),
                )
            )
    headers = ["model", "of the steps", "step", "AdamW, ours", "SPAM, ours"]
    headers += ["SPAM − AdamW, ours [95 %]", "AdamW, paper", "SPAM, paper", "SPAM − AdamW, paper"]
    return Section("Accuracy after each quarter, %", document.table(headers, rows))


def _ends(cells: Mapping[Key, Cell], averaged: Mapping[Key, Cell]) -> Section:
    """The end again, beside what the average of the weights reaches there."""
    rows = [
        (
            MODELS[panel],
            METHODS[method],
            len(cell.losses),
            _shown(accuracy(cell)),
            _shown(accuracy(averaged[panel, method])),
        )
        for (panel, value), cell in cells.items()
        for method in (str(value),)
    ]
    text = (
        "The recipe also keeps a moving average of the weights. The paper does not say whose "
        "accuracy it prints; the claims are tested on the model's own."
    )
    headers = ["model", "optimizer", "n", "accuracy, %", "accuracy of averaged weights, %"]
    return Section("At the end", f"{text}\n\n{document.table(headers, rows)}")


def _what_was_run(requests: Sequence[Request], frame: pd.DataFrame) -> Section:
    rows = {}
    for request in requests:
        task: Any = request.config.task
        optimizer: Any = request.config.optimizer
        method = str(request.labels["value"])
        resets = (
            f"every {optimizer.delta_t}, N={optimizer.warmup_steps}" if method == "spam" else "–"
        )
        rows[request.labels["panel"], method] = (
            MODELS[str(request.labels["panel"])],
            METHODS[method],
            f"widths {'/'.join(map(str, task.hidden_sizes))}, "
            f"blocks {'/'.join(map(str, task.depths))}",
            f"{task.dataset}, {task.image_size} pixels, {task.classes} classes{_left_out(task)}",
            task.batch_size,
            f"{request.config.schedule.steps:,}",
            f"{optimizer.lr:g}",
            resets,
        )
    runs = frame.drop_duplicates("run_id")
    states = ", ".join(f"{n} {state}" for state, n in sorted(runs["state"].value_counts().items()))
    seeds = ", ".join(str(seed) for seed in sorted({request.seed for request in requests}))
    headers = ["model", "optimizer", "shape", "images", "batch", "steps", "peak lr", "resets"]
    return Section(
        "What was run",
        f"Scale `{requests[0].config.scale.name}`, seeds {seeds}. {len(runs)} runs ({states}). "
        "Both optimizers have the learning rate, weight decay and augmentation of ConvNeXt's "
        "recipe; biases, norms, scales and position embeddings are not decayed.\n\n"
        + document.table(headers, list(rows.values())),
    )


def _left_out(task: Any) -> str:
    """The parts of the recipe's augmentation that these images do without."""
    parts = (("flips", task.flip), ("RandAugment", task.rand_augment), ("erasing", task.erasing))
    return "".join(f", no {name}" for name, value in parts if not value)


def _limits(scale: ScaleConfig, requests: Sequence[Request], cells: Mapping[Key, Cell]) -> Section:
    tasks: list[Any] = [request.config.task for request in requests]
    images = ", ".join(sorted({task.dataset for task in tasks}))
    widths = [
        100 * (found.high - found.low) / 2
        for panel in MODELS
        if (found := difference(cells.get((panel, "spam")), cells.get((panel, "adamw"))))
    ]
    power = (
        f"A paired difference is here known to ± {median(widths):.2f} points (median over "
        f"{len(widths)} models). The paper's differences at the end are 0.15 and 0.27 points."
        if widths
        else document.NOT_TESTED
    )
    opening = (
        "The paper's setting."
        if scale.name == "paper"
        else f"Scale `{scale.name}` trains small relatives of the models on `{images}`. A verdict "
        "here is about these; it neither confirms nor refutes the paper."
    )
    return Section("What this scale can decide", f"{opening} {power}")


def _table(
    frame: pd.DataFrame,
    cells: Mapping[Key, Cell],
    curves: Curves,
    steps: Mapping[str, int],
) -> pd.DataFrame:
    run_ids: dict[Key, list[str]] = {}
    for row in rows_of(frame):
        run_ids.setdefault((row["panel"], row["value"]), []).append(row["run_id"])
    rows = []
    for key, whole in cells.items():
        panel, method = key[0], str(key[1])
        for place, fraction in enumerate(FRACTIONS):
            step = evaluation_at(curves, panel, fraction, steps[panel])
            cell = curves.get(key, {}).get(step)
            estimate, published = accuracy(cell), ACCURACY[panel, method][place]
            errors = {} if cell is None else cell.losses
            rows.append(
                {
                    "panel": panel,
                    "value": method,
                    "fraction": fraction,
                    "step": step,
                    "runs": whole.seeds,
                    "n": len(errors),
                    "diverged": len(whole.diverged),
                    "incomplete": len(whole.incomplete),
                    "accuracy_mean": estimate.mean if estimate else math.nan,
                    "accuracy_half_width_95": estimate.half_width if estimate else math.nan,
                    "paper_accuracy": math.nan if published is None else published,
                    "errors": " ".join(f"{seed}:{errors[seed]:.6f}" for seed in sorted(errors)),
                    "cell_id": whole.cell_id,
                    "run_ids": " ".join(run_ids[key]),
                }
            )
    return pd.DataFrame(rows)


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    half = f" ± {estimate.half_width:.2f}" if estimate.has_interval else ""
    return f"{estimate.mean:.2f}{half}"


def _shown_gain(found: Difference | None) -> str:
    """A difference in accuracy, which is that in error turned round."""
    if found is None:
        return "–"
    return f"{-100 * found.mean:+.2f} [{-100 * found.high:+.2f}, {-100 * found.low:+.2f}]"


def _printed(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _printed_gain(adamw: float | None, spam: float | None) -> str:
    return "–" if adamw is None or spam is None else f"{spam - adamw:+.2f}"
