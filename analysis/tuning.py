"""The exhibit of a study: what a search found, how it got there, and how far the paper's setting is
from it.

Every number stands beside the run it is from, or is said to be a fit's. All trials of a study have
one seed, so no interval here covers what another seed would have chosen, and the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis import document, importance, paper_setting, surface, trials
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import FrameError
from analysis.paper_setting import PaperSetting
from analysis.response import Findings, by_importance
from analysis.trials import COMPLETE, Axis, Record, Trial
from analysis.tuning_figure import best_so_far, figure, front
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value
from spam_lab.orchestrate.search import LOSS

NAME = "tuning"
DESCRIPTION = "What did a study find, and how far is the paper's setting from it?"
SHOWN = 5
"""The best trials that are listed."""


def build(root: Path, name: str, scale: ScaleConfig, allow_incomplete: bool = False) -> Exhibit:
    """The exhibit of the study `name` under `root`.

    Raises:
        ConfigError: there is no such study.
        FrameError: no trial of it has a result, and `allow_incomplete` is not set.
    """
    record = trials.read(root, name, scale.name)
    if not record.complete and not allow_incomplete:
        counted = ", ".join(f"{n} {state}" for state, n in sorted(record.counts.items()))
        raise FrameError(
            f"no trial of {name} has a result ({counted}). To go on: python launch.py "
            f"study={name}. To show what there is: --allow-incomplete"
        )
    found = Findings(
        record,
        paper_setting.find(record, root),
        importance.importances(record),
        surface.fit(record),
    )
    sections = [_searched(found), _best(found)]
    if record.winners_by:
        sections.append(_winners(record))
    sections += [_paper(found), _importance(found), _response(found), _limits(found, scale)]
    return Exhibit(
        name=f"{NAME}_{name}",
        title=f"{name} at scale {scale.name}: {record.description}",
        summary=_summary(record),
        figure=figure(found),
        table=table(record),
        answers=(),
        sections=(*sections, _runs(record)),
    )


def table(record: Record) -> pd.DataFrame:
    """One row a trial, in the order in which they were begun."""
    best = dict(best_so_far(record, lambda trial: trial.number))
    rows, reached = [], math.nan
    for trial in record.trials:
        reached = best.get(trial.number, reached)
        step, at = trial.stopped_at or (None, math.nan)
        rows.append(
            {
                "trial": trial.number,
                "outcome": trial.outcome,
                **_values(record, trial),
                "best_so_far": reached,
                "pruned_at_step": "" if step is None else step,
                "loss_when_pruned": at,
                "seconds_at_work": trial.ended,
                **{axis.key: _plain(trial.point.get(axis.key, "")) for axis in record.axes},
                "run_id": trial.run_id,
                "reason": trial.reason,
            }
        )
    return pd.DataFrame(rows)


def _values(record: Record, trial: Trial) -> dict[str, float]:
    """The objectives of a trial, and the perplexity; NaN where it has none."""
    values = trial.values or (math.nan,) * len(record.objectives)
    found = dict(zip(record.objectives, values, strict=True))
    if LOSS in found:
        found["validation/perplexity"] = math.exp(found[LOSS])
    return found


def _plain(value: Value) -> Value:
    """A value as text, with the digits that the CSV's fixed form would cut off."""
    return f"{value:.10g}" if isinstance(value, float) else value


def shown(value: Value) -> str:
    """A value as people write it."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def setting(record: Record, point: Mapping[str, Value]) -> str:
    """The searched keys with their values."""
    known = [axis.key for axis in record.axes if axis.key in point]
    return ", ".join(f"`{key}={shown(point[key])}`" for key in known)


def _summary(record: Record) -> str:
    counted = ", ".join(f"{n} {state}" for state, n in sorted(record.counts.items()))
    what = " and ".join(record.objectives)
    return (
        f"A search that minimises {what} (`sweeps/{record.name}.py`). {len(record.trials)} trials: "
        f"{counted}, each one run with seed {record.seed}. A trial that diverged or failed has no "
        "value: it is marked at the upper edge of the panels, and enters no average, fit or "
        "importance. Nor does one that was pruned: it is shown with the loss it had when it was "
        "stopped, at an earlier step than the others' last."
    )


def _searched(found: Findings) -> Section:
    record, paper = found.record, found.paper
    best = record.ranked()[:1]
    rows = []
    for axis in record.axes:
        own = best[0].point.get(axis.key, "–") if best else "–"
        rows.append(
            (
                f"`{axis.key}`",
                _range(axis),
                shown(paper.point[axis.key]) if axis.key in paper.point else "–",
                shown(own),
            )
        )
    lowest = "best trial" if len(record.objectives) == 1 else "lowest loss"
    body = document.table(["key", "searched", "the paper's, as run", lowest], rows)
    return Section("What was searched", body)


def _range(axis: Axis) -> str:
    if axis.choices:
        text = f"one of {', '.join(shown(value) for value in axis.choices)}"
    else:
        text = f"{axis.low:g} to {axis.high:g}{', logarithmic' if axis.log else ''}"
    return text + (", under a condition" if axis.is_conditional else "")


def _best(found: Findings) -> Section:
    record = found.record
    if not record.complete:
        return Section("The best found", "No trial has a result yet.")
    if len(record.objectives) > 1:
        headers = [*record.objectives, "setting", "trial", "run"]
        rows = [
            (*(f"{value:.6g}" for value in t.values), *_where(record, t)) for t in front(record)
        ]
        return Section(
            "The Pareto front",
            "Trials than which no other is better in one objective and as good in the other.\n\n"
            + document.table(headers, rows),
        )
    headers = ["loss", "perplexity", "setting", "trial", "run"]
    ranked = record.ranked()
    rows = [_row(record, trial) for trial in ranked[:SHOWN]]
    body = document.table(headers, rows)
    ends = [axis.key for axis in record.axes if _is_at_end(axis, ranked[0])]
    if ends:
        keys = ", ".join(f"`{key}`" for key in ends)
        body += (
            f"\n\nThe best trial lies at the end of what was searched for {keys}: what is best may "
            "lie beyond it."
        )
    return Section("The best found", body)


def _is_at_end(axis: Axis, trial: Trial) -> bool:
    return axis.key in trial.point and axis.is_end(trial.point[axis.key])


def _row(record: Record, trial: Trial) -> tuple[str, ...]:
    value = record.value(trial)
    return (f"{value:.4f}", f"{math.exp(value):.2f}", *_where(record, trial))


def _where(record: Record, trial: Trial) -> tuple[str, str, str]:
    return setting(record, trial.point), str(trial.number), f"`{trial.run_id}`"


def _winners(record: Record) -> Section:
    """The best of each value of the key that winners are kept by."""
    key = record.winners_by
    best: dict[Value, Trial] = {}
    for trial in record.ranked():
        best.setdefault(trial.point[key], trial)
    ends = [
        str(value)
        for value, trial in best.items()
        if any(_is_at_end(axis, trial) for axis in record.axes if axis.key != key)
    ]
    rows = [(shown(value), *_row(record, trial)) for value, trial in best.items()]
    body = document.table([f"`{key}`", "loss", "perplexity", "setting", "trial", "run"], rows)
    body += (
        "\n\nThese are the settings of the study's winners.json, which sweeps take with `tuned=`. "
        "The order of the values is that of one seed."
    )
    if ends:
        body += (
            f" The best of {', '.join(ends)} lies at the end of what was searched: it may lie "
            "beyond it."
        )
    return Section(f"The best by {key}", body)


def _paper(found: Findings) -> Section:
    heading = "How far the paper's setting is from the best found"
    record, paper = found.record, found.paper
    if not paper.point:
        return Section(heading, f"Not known: {paper.reason}.")
    where = f"The paper's setting, as run at this scale, is {setting(record, paper.point)}."
    ranked = record.ranked()
    if not ranked:
        return Section(heading, f"{where} No trial has a result to compare it with.")
    best = ranked[0]
    lowest = record.value(best)
    parts = [where]
    if paper.is_measured:
        gap = paper.loss - lowest
        said = (
            f"{_percent(gap)} in perplexity above the best found ({lowest:.4f}, trial "
            f"{best.number})"
            if gap > 0
            else "nothing found is better"
        )
        parts.append(
            f"**Measured:** its run with this study's seed, `{paper.run_id}` ({paper.source}), has "
            f"the loss {paper.loss:.4f}: {said}. Both are single runs."
        )
    elif paper.source:
        parts.append(f"**It has no value:** {paper.reason} (run `{paper.run_id}`).")
    outside = [a.key for a in record.axes if a.key in paper.point and _is_outside(a, paper)]
    if outside:
        parts.append(
            f"It lies outside of what was searched for {', '.join(outside)}: the fit says nothing "
            "of it."
        )
    elif found.surface is not None:
        parts += _predicted(found, best)
    elif not paper.is_measured:
        parts.append(f"It was not run, and cannot be predicted. {surface.why_none(record)}")
    return Section(heading, "\n\n".join(parts))


def _is_outside(axis: Axis, paper: PaperSetting) -> bool:
    value = paper.point[axis.key]
    if not axis.is_number:
        return value not in axis.choices
    return not isinstance(value, int | float) or not axis.low <= value <= axis.high


def _predicted(found: Findings, best: Trial) -> list[str]:
    assert found.surface is not None
    paper, parts = found.paper, []
    if not paper.is_measured and not paper.source:
        there = found.surface.of_a_run(paper.point)
        parts.append(
            f"**A prediction, not a measurement** ({paper.reason}): by the fitted surface a run of "
            f"it would have the loss {there.mean:.4f} ± {there.half_width:.4f} (95 %), where the "
            f"best trial has {found.record.value(best):.4f}. `python launch.py` with this setting "
            f"and seed={found.record.seed} measures it."
        )
    apart = found.surface.difference(paper.point, best.point)
    sure = (
        "the interval is above zero"
        if apart.mean - apart.half_width > 0
        else "the interval holds zero: the two are not told apart"
        if apart.mean + apart.half_width > 0
        else "the interval is below zero"
    )
    parts.append(
        f"On the fitted surface, where neighbours count too and the luck of the best trial is "
        f"smoothed, it lies {apart.mean:+.4f} ± {apart.half_width:.4f} (95 %) from the best "
        f"trial's setting; {sure}. The interval is the fit's own, for this seed."
    )
    return parts


def _percent(gap: float) -> str:
    return f"{100 * math.expm1(gap):.1f} %"


def _importance(found: Findings) -> Section:
    if not found.importances:
        return Section("Importance", importance.why_none(found.record))
    body = document.table(
        ["key", "share", "95 % interval"],
        [
            (f"`{one.key}`", f"{one.share:.2f}", f"{one.low:.2f} to {one.high:.2f}")
            for one in found.importances
        ],
    )
    target = ""
    if len(found.record.objectives) > 1:
        target = f" Here of {found.record.objectives[found.record.target]} alone."
    return Section(
        "Importance",
        f"{body}\n\n{importance.METHOD}.{target} A sampler that learns looks more where "
        "the loss is low, so shares are those among the trials there are, not over the whole "
        "space.",
    )


def _response(found: Findings) -> Section:
    if found.surface is None:
        return Section("The response", surface.why_none(found.record))
    numbers, categories = by_importance(found)
    body = (
        f"{surface.METHOD}. Trials scatter around it by {found.surface.noise:.4f} nats (one "
        "standard deviation, fitted); with one seed this is the roughness of the response, not "
        "the noise of seeds."
    )
    left = len(numbers) - 2 if len(numbers) > 1 else len(categories) - 1 if numbers else 0
    if left > 0 or (len(numbers) > 1 and categories):
        body += " Keys that the panel does not show are as in the best trial."
    if any(axis.is_conditional for axis in found.record.axes):
        body += " Keys that are searched under a condition are no part of it."
    return Section("The response", body)


def _limits(found: Findings, scale: ScaleConfig) -> Section:
    record = found.record
    away = "" if scale.name == "paper" else "what is best here neither confirms nor refutes it"
    body = (
        f"All trials have seed {record.seed}: initial weights and the order of the data are the "
        "same in all of them. How the order of settings changes with another seed is **not** "
        "covered by any interval on this page. The best of many trials is also the luckiest, so "
        "its own value is too good by some of that luck: to compare it with the paper's setting, "
        "run both with several seeds that this study did not use, as sweeps do."
    )
    if away:
        body += f" Scale `{scale.name}` is not the paper's setting: {away}."
    return Section("What this study can decide", body)


def _runs(record: Record) -> Section:
    """Every trial with its run."""

    def came_to(trial: Trial) -> str:
        if trial.outcome == COMPLETE:
            return ", ".join(f"{value:.6g}" for value in trial.values)
        if trial.stopped_at is not None:
            return f"pruned at step {trial.stopped_at[0]} with {trial.stopped_at[1]:.4f}"
        return trial.outcome

    rows = [
        (t.number, f"`{t.run_id}`" if t.run_id else "–", setting(record, t.point), came_to(t))
        for t in record.trials
    ]
    return Section(
        "The runs behind each trial",
        document.table(["trial", "run", "setting", " and ".join(record.objectives)], rows),
    )
