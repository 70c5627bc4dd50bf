"""Reinforcement learning: PPO with SPAM beside PPO with Adam on three environments (abstract).

The paper's abstract has a claim and the paper no experiment: what stands here is a test of the
claim, not a reproduction. Returns are the measure; they become scores, in units of what CleanRL
reports for its own PPO after many more transitions, so that environments can be taken together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis import document
from analysis.aggregates import EXCHANGES, RESAMPLES, Aggregate, Scores, Together, together
from analysis.cell_table import Key, note
from analysis.claims import Answer, Claim, Part
from analysis.curves import curves_of
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import cells as cells_of
from analysis.frames import rows_of
from analysis.reinforcement_figure import draw
from analysis.stats import Cell, Comparison, Estimate, Verdict, compare, mean_interval
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

RETURN = "validation/return"
METHODS = {"spam": "SPAM", "adam": "Adam"}
CONTROLS = {
    "adam_twice": "Adam at twice the rate",
    "spam_restarted": "SPAM, correction restarted",
}
"""What tells an advantage of SPAM from that of larger steps; no part of the claim's test."""

CLAIM = Claim(
    key="reinforcement.spam_surpasses_adam",
    text="SPAM surpasses Adam in reinforcement learning",
    source=(
        "Abstract on arXiv (2501.06842v2, 28 February 2025): “SPAM consistently surpasses Adam and "
        "its variants across various tasks, including … (3) reinforcement learning”. The paper has "
        "no experiment, table or setting of it, and the abstract of its proceedings' text does not "
        "name it"
    ),
)


@dataclass(frozen=True)
class Environment:
    """An environment: its name, and the return that makes a score of 1.

    `published` is what CleanRL's documentation reports for PPO, on the version of `published_for`.
    """

    name: str
    published: float
    published_for: str


ENVIRONMENTS = {
    "cartpole": Environment("CartPole", 490.04, "CartPole-v1 after 0.5 million transitions"),
    "hopper": Environment("Hopper", 2382.86, "Hopper-v4 after 1 million"),
    "pendulum": Environment("InvertedPendulum", 963.09, "InvertedPendulum-v4 after 1 million"),
}


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `reinforcement`."""
    returns = cells_of(frame, cell_name, metric=RETURN)
    obstacle = _obstacle(returns)
    both = None if obstacle else together(scores_of(returns, "spam"), scores_of(returns, "adam"))
    answer = _answer(both, obstacle)
    one_of = {str(request.labels["panel"]): request for request in requests}
    curves = {
        key: {transitions_of(one_of[key[0]], step): cell for step, cell in curve.items()}
        for key, curve in curves_of(frame, returns, RETURN).items()
    }
    titles = {panel: environment.name for panel, environment in ENVIRONMENTS.items()}
    return Exhibit(
        name="reinforcement",
        title=f"Reinforcement learning at scale {scale.name}: PPO with SPAM and with Adam",
        summary=(
            "The mean return of evaluation episodes that are the same for all runs, played without "
            "exploration at the end of training. Environments are taken together as rliable does "
            "(Agarwal et al., 2021): interquartile mean and probability of improvement, with 95 % "
            "intervals from a stratified bootstrap. The paper prints nothing to compare with."
        ),
        figure=draw(
            f"PPO with SPAM and with Adam, {document.setting(requests)}",
            titles,
            METHODS,
            curves,
            both,
            f"“SPAM surpasses Adam”: {answer.verdict}",
        ),
        table=_table(frame, requests, returns),
        answers=(answer,),
        sections=(
            document.claims([answer]),
            _together(both, obstacle),
            _values(returns),
            _controls(returns),
            _what_was_run(requests, frame),
            _limits(scale, requests),
            _runs_behind(returns, frame),
        ),
    )


def cell_name(panel: str, value: Value) -> str:
    """What a cell is called in sentences."""
    return f"{(METHODS | CONTROLS)[str(value)]} ({ENVIRONMENTS[panel].name})"


def transitions_of(request: Request, steps: int) -> int:
    """How many transitions an agent has made at a step, by whole rollouts."""
    task: Any = request.config.task
    rollout = task.environments * task.horizon
    updates = rollout // task.batch_size * task.epochs
    return int(-(-steps // updates) * rollout)


def scores_of(cells: Mapping[Key, Cell], method: str) -> Scores:
    """[environments, seeds], in the order of `ENVIRONMENTS` and of the seeds."""
    rows = []
    for panel, environment in ENVIRONMENTS.items():
        losses = cells[panel, method].losses
        rows.append([losses[seed] / environment.published for seed in sorted(losses)])
    return np.array(rows)


def _obstacle(cells: Mapping[Key, Cell]) -> str:
    """Why environments cannot be taken together; empty where they can."""
    for panel in ENVIRONMENTS:
        for method in METHODS:
            cell = cells.get((panel, method))
            if cell is None:
                return f"{cell_name(panel, method)} was not asked for"
            if cell.diverged or cell.incomplete:
                return f"{cell.name}: {remark(panel, cell)}"
    counts = {len(cells[panel, method].losses) for panel in ENVIRONMENTS for method in METHODS}
    if len(counts) > 1:
        return "the cells have unequal numbers of seeds"
    return "" if min(counts) > 1 else "one seed: no interval"


def _answer(both: Together | None, obstacle: str) -> Answer:
    test = (
        "difference of the interquartile means of the scores of all environments and seeds, SPAM "
        "less Adam: a two-sided test that exchanges the methods within pairs of one environment "
        f"and seed (all 2^n exchanges, or {EXCHANGES:,} at random where there are more); holds if "
        f"p < 0.05 and SPAM's is higher, fails if Adam's is; 95 % percentile interval from "
        f"{RESAMPLES:,} resamples of the seeds within each environment"
    )
    text = "SPAM has the higher interquartile mean"
    if both is None:
        part = Part(text, Verdict.UNDECIDED, obstacle)
        return Answer(CLAIM, Verdict.UNDECIDED, test, "", (part,))
    difference = both.difference
    part = Part(text, difference.verdict, f"{_shown(difference, '+')}, p={difference.p:.4f}")
    tested = Comparison(
        Cell("SPAM on all environments"),
        Cell("Adam on all environments"),
        difference.verdict,
        adjusted_p=difference.p,
    )
    value, best = max(
        (mean.value, name) for mean, name in zip(both.means, METHODS.values(), strict=True)
    )
    detail = f"higher interquartile mean: {best} ({value:.3f}); a description, not a test"
    return Answer(CLAIM, difference.verdict, test, detail, (part,), tested=(tested,))


def _shown(aggregate: Aggregate, sign: str = "") -> str:
    """A value and its interval."""
    form = f"{sign}.3f"
    return f"{aggregate.value:{form}} [{aggregate.low:{form}}, {aggregate.high:{form}}]"


def _together(both: Together | None, obstacle: str) -> Section:
    heading = "All environments together"
    if both is None:
        return Section(heading, f"Nothing is taken together: {obstacle}.")
    rows = [
        (f"interquartile mean of the scores, {name}", _shown(mean))
        for mean, name in zip(both.means, METHODS.values(), strict=True)
    ]
    rows.append(("its difference, SPAM less Adam", _shown(both.difference, "+")))
    rows.append(("probability that SPAM improves on Adam", _shown(both.improvement)))
    rows += [
        (f"the same on {environment.name} alone", _shown(improvement))
        for improvement, environment in zip(both.on, ENVIRONMENTS.values(), strict=True)
    ]
    units = "; ".join(
        f"{known.name} {known.published:g} ({known.published_for})"
        for known in ENVIRONMENTS.values()
    )
    return Section(
        heading,
        f"{document.table(['measure', 'value [95 %]'], rows)}\n\nA score is a return divided by "
        f"the one that CleanRL's documentation reports for its PPO: {units}. These are units, not "
        "results to be compared with: their runs are far longer.",
    )


def _values(cells: Mapping[Key, Cell]) -> Section:
    """Returns by environment, and the paired difference in each: a description, not the test."""
    rows = []
    for panel, environment in ENVIRONMENTS.items():
        adam, spam = (_cell(cells, panel, method) for method in ("adam", "spam"))
        shown = _paired(spam, adam)
        rows.append((environment.name, shown_return(adam), shown_return(spam), shown))
    headers = [
        "environment",
        "return, Adam",
        "return, SPAM",
        "SPAM less Adam, paired by seed [95 %]",
    ]
    return Section(
        "Returns",
        f"{document.table(headers, rows)}\n\nMeans over seeds with 95 % t intervals; the paired "
        "t tests are not corrected for their number, and no verdict rests on them.",
    )


def _controls(cells: Mapping[Key, Cell]) -> Section:
    """What is left of SPAM's advantage over larger steps, and without its own."""
    rows = []
    for panel, environment in ENVIRONMENTS.items():
        adam, spam, twice, restarted = (
            _cell(cells, panel, method) for method in ("adam", "spam", *CONTROLS)
        )
        pairs = _paired(twice, adam), _paired(spam, twice), _paired(restarted, adam)
        rows.append((environment.name, shown_return(twice), shown_return(restarted), *pairs))
    headers = ["environment", *(f"return, {name}" for name in CONTROLS.values())]
    headers += ["Adam at twice the rate less Adam", "SPAM less Adam at twice the rate"]
    headers += ["SPAM, correction restarted, less Adam"]
    return Section(
        "Is it SPAM, or larger steps?",
        "SPAM's bias correction goes on at a reset, which makes the steps after it larger. If Adam "
        "gains as much at twice its rate, and SPAM gains nothing once its correction is restarted, "
        "an advantage of SPAM is one of larger steps.\n\n"
        + document.table(headers, rows)
        + "\n\nPaired by seed, with 95 % t intervals; not corrected, and no part of the claim.",
    )


def _cell(cells: Mapping[Key, Cell], panel: str, method: str) -> Cell:
    return cells.get((panel, method), Cell(cell_name(panel, method)))


def _paired(one: Cell, other: Cell) -> str:
    """The return of `one` less that of `other`, at the same seeds."""
    # Statistics assume that lower is better: a return becomes a loss by its sign.
    paired = compare(_negated(one), _negated(other))
    difference = paired.difference
    if difference is None:
        return paired.reason
    # Less than 0, not negated: a tie is +0.0.
    mean, low, high = (0 - v for v in (difference.mean, difference.high, difference.low))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}], p={difference.p:.4f}, {paired.verdict}"


def remark(panel: str, cell: Cell) -> str:
    """What is not whole about a cell of returns."""
    published = ENVIRONMENTS[panel].published
    return note(replace(cell, losses={s: -value / published for s, value in cell.losses.items()}))


def _negated(cell: Cell) -> Cell:
    return replace(cell, losses={seed: -value for seed, value in cell.losses.items()})


def mean_return(cell: Cell) -> Estimate | None:
    """The mean over seeds; None where no run finished, or where any run diverged."""
    if not cell.losses or cell.diverged:
        return None
    return mean_interval(list(cell.losses.values()))


def shown_return(cell: Cell) -> str:
    """The mean with its half-width, or why there is none."""
    estimate = mean_return(cell)
    if estimate is None:
        return "diverged" if cell.diverged else "–"
    shown = f"{estimate.mean:.1f}"
    if estimate.has_interval:
        shown += f" ± {estimate.half_width:.1f}"
    return f"{shown} (n={estimate.n} of {cell.seeds})" if cell.incomplete else shown


def _table(
    frame: pd.DataFrame, requests: Sequence[Request], cells: Mapping[Key, Cell]
) -> pd.DataFrame:
    """One row a cell."""
    rows = []
    for (panel, value), cell in cells.items():
        own = [row for row in rows_of(frame) if (row["panel"], row["value"]) == (panel, value)]
        config = next(r.config for r in requests if r.labels == {"panel": panel, "value": value})
        task: Any = config.task
        estimate = mean_return(cell)
        nan = float("nan")
        rows.append(
            {
                "panel": panel,
                "value": value,
                "environment": task.environment,
                "learning_rate": config.optimizer.lr,
                "runs": cell.seeds,
                "n": len(cell.losses),
                "diverged": len(cell.diverged),
                "incomplete": len(cell.incomplete),
                "return_mean": estimate.mean if estimate else nan,
                "return_half_width_95": estimate.half_width if estimate else nan,
                "score_mean": estimate.mean / ENVIRONMENTS[panel].published if estimate else nan,
                "cell_id": cell.cell_id,
                "returns": " ".join(f"{s}:{cell.losses[s]:.6f}" for s in sorted(cell.losses)),
                "run_ids": " ".join(row["run_id"] for row in own),
            }
        )
    return pd.DataFrame(rows)


def _what_was_run(requests: Sequence[Request], frame: pd.DataFrame) -> Section:
    """Environments, lengths, and what SPAM's intervals are."""
    runs = frame.drop_duplicates("run_id")
    states = ", ".join(f"{n} {state}" for state, n in sorted(Counter(runs["state"]).items()))
    rows = []
    for request in {r.labels["panel"]: r for r in requests if r.labels["value"] == "spam"}.values():
        steps = request.config.schedule.steps
        task: Any = request.config.task
        spam: Any = request.config.optimizer
        rows.append(
            (
                task.environment,
                f"{transitions_of(request, steps):,}",
                f"{steps:,} of {task.batch_size} transitions",
                f"{task.environments} × {task.horizon}, {task.epochs} epochs",
                f"{spam.lr:g}",
                f"{spam.delta_t}, {spam.warmup_steps}, {spam.beta2:g}",
            )
        )
    headers = ["environment", "transitions", "updates", "rollout", "learning rate"]
    seeds = sorted({request.seed for request in requests})
    return Section(
        "What was run",
        f"{len(runs)} runs ({states}), seeds {', '.join(map(str, seeds))}; PPO as CleanRL has it "
        "(actor and critic of two hidden layers, the clipped surrogate and value, gradients "
        "clipped to a norm of 0.5 for both methods), with two differences: the learning rate falls "
        "along a cosine, not a line, and an episode that the time limit cuts off is bootstrapped, "
        f"not ended.\n\n{document.table([*headers, 'ΔT, N, β₂'], rows)}",
    )


def _limits(scale: ScaleConfig, requests: Sequence[Request]) -> Section:
    seeds = len({request.seed for request in requests})
    return Section(
        "What this scale can decide",
        f"A verdict here is about three small environments, runs of scale `{scale.name}` and "
        f"{seeds} seeds a cell. A bootstrap of {seeds} runs knows no run outside these: its "
        "intervals are rather too narrow; the p value is exact. Neither method's learning rate "
        "was tuned: both have the one that CleanRL uses with Adam. Seeds are paired in weights and "
        "noise at the start; after a few updates two agents see different transitions, so pairing "
        "helps little.",
    )


def _runs_behind(cells: Mapping[Key, Cell], frame: pd.DataFrame) -> Section:
    rows = []
    for (panel, value), cell in cells.items():
        own = [row for row in rows_of(frame) if (row["panel"], row["value"]) == (panel, value)]
        runs = "; ".join(
            f"{row['seed']}: `{row['run_id']}` "
            + (f"{row['values'][RETURN]:.1f}" if row["state"] == "done" else str(row["state"]))
            for row in own
        )
        rows.append((cell.name, f"`{cell.cell_id}`", runs, remark(panel, cell) or "complete"))
    return Section(
        "The runs behind each cell",
        document.table(["cell", "cell_id", "seed: run_id, return", "state"], rows),
    )
