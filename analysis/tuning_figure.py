"""The figure of a study: its progress, what mattered, and where the loss is low.

Four panels: the best so far against trials and against time (of two objectives, the Pareto front
instead), the importances, and the response.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import drawing, importance, response
from analysis.drawing import BLUE, INK, VERMILLION
from analysis.response import Findings
from analysis.trials import Record, Trial
from analysis.tuning_marks import (
    MARKS,
    NAMES,
    OBJECTIVES,
    PAPER,
    in_lines,
    limits,
    mark,
    say,
    shown_key,
)
from spam_lab.orchestrate.search import STATE_BYTES

UNITS = ((1.0, 120.0, "s"), (60.0, 7200.0, "min"), (3600.0, math.inf, "h"))


def figure(findings: Findings) -> Figure:
    """The study's figure."""
    record = findings.record
    several = len(record.objectives) > 1
    with drawing.style():
        trials = f"{len(record.trials)} trial{'s' * (len(record.trials) != 1)}"
        title = f"{record.name}, scale {record.scale}: {trials}, all of seed {record.seed}"
        made = drawing.new_figure(7.4, 6.6, title)
        top = "front front" if several else "trials time"
        panels: dict[str, Axes] = made.subplot_mosaic([top.split(), ["importance", "response"]])  # type: ignore[list-item]
        if several:
            _draw_front(panels["front"], findings)
        else:
            _draw_progress(panels["trials"], findings, lambda trial: float(trial.number))
            panels["trials"].set_title("Best so far, by trials", pad=7)
            panels["trials"].set_xlabel("trial")
            panels["trials"].xaxis.set_major_locator(MaxNLocator(8, integer=True))
            divisor, unit = _unit(record)
            _draw_progress(panels["time"], findings, lambda trial: trial.ended / divisor)
            panels["time"].set_title("Best so far, by time", pad=7)
            panels["time"].set_xlabel(f"time in which trials were at work, {unit}")
        _draw_importances(panels["importance"], findings)
        response.draw(panels["response"], findings)
        _add_legend(made, findings)
    return made


def front(record: Record) -> list[Trial]:
    """Complete trials than which no other is better in one objective and as good in the other."""
    found: list[Trial] = []
    for trial in sorted(record.complete, key=lambda trial: (*trial.values, trial.number)):
        if not found or trial.values[1] < found[-1].values[1]:
            found.append(trial)
    return found


def best_so_far(record: Record, place: Callable[[Trial], float]) -> list[tuple[float, float]]:
    """Where each trial that was better than all before it stands, in the order of the axis."""
    found: list[tuple[float, float]] = []
    for trial in sorted(record.complete, key=lambda trial: (place(trial), trial.number)):
        value = record.value(trial)
        if math.isfinite(place(trial)) and (not found or value < found[-1][1]):
            found.append((place(trial), value))
    return found


def _unit(record: Record) -> tuple[float, str]:
    longest = max((t.ended for t in record.trials if math.isfinite(t.ended)), default=0.0)
    divisor, _, name = next(unit for unit in UNITS if longest <= unit[1])
    return divisor, name


def _draw_progress(axes: Axes, findings: Findings, place: Callable[[Trial], float]) -> None:
    record, paper = findings.record, findings.paper
    if not record.complete:
        say(axes, "No trial has a result yet.")
        return
    low, high = limits(record, paper)
    axes.set_ylim(low, high)
    axes.set_ylabel(OBJECTIVES[record.objectives[record.target]])
    for trial in record.trials:
        kind, y = mark(record, trial, low, high)
        if kind and math.isfinite(place(trial)):
            axes.plot(place(trial), y, ls="", zorder=2.5, clip_on=False, **MARKS[kind])
            findings.used.add(kind)
    axes.set_xlim(left=0)
    steps = best_so_far(record, place)
    if steps:
        last = max(place(t) for t in record.trials if math.isfinite(place(t)))
        shown = [*steps, (last, steps[-1][1])]
        axes.step([x for x, _ in shown], [y for _, y in shown], where="post", color=BLUE, lw=1.6)
        axes.plot(*steps[-1], ls="", zorder=4, clip_on=False, **response.STAR)
    if paper.is_measured and low < paper.loss < high:
        axes.axhline(paper.loss, color=VERMILLION, ls=drawing.DASHES, lw=1.1, zorder=1.5)
        findings.used.add("paper's line")


def _draw_front(axes: Axes, findings: Findings) -> None:
    """The two objectives against each other; the loss is the vertical one."""
    record = findings.record
    target = record.target
    axes.set_title("Pareto front: no trial is better in one and as good in the other", pad=7)
    axes.set_xlabel(OBJECTIVES[record.objectives[1 - target]])
    axes.set_ylabel(OBJECTIVES[record.objectives[target]])
    low, high = limits(record, findings.paper)
    axes.set_ylim(low, high)
    for trial in record.complete:
        kind, y = mark(record, trial, low, high)
        axes.plot(_across(record, trial), y, ls="", clip_on=False, **MARKS[kind])
        findings.used.add(kind)
    points = sorted((_across(record, t), record.value(t)) for t in front(record))
    axes.step([x for x, _ in points], [y for _, y in points], where="post", color=BLUE, lw=1.4)
    axes.plot([x for x, _ in points], [y for _, y in points], "o", ms=5, color=BLUE)
    lost = [f"{n} {name}" for name, n in sorted(record.counts.items()) if name in MARKS]
    lost = [text for text in lost if not text.endswith(" complete")]
    if lost:
        text = f"not shown, having no values: {', '.join(lost)}"
        axes.text(0.99, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=7.5)
    for trial in record.complete:
        if trial.run_id and trial.run_id == findings.paper.run_id:
            place = (_across(record, trial), record.value(trial))
            axes.plot(*place, ls="", zorder=5, clip_on=False, **PAPER)
            findings.used.add("paper")


def _across(record: Record, trial: Trial) -> float:
    place = 1 - record.target
    return trial.values[place] / (1e6 if record.objectives[place] == STATE_BYTES else 1.0)


def _draw_importances(axes: Axes, findings: Findings) -> None:
    axes.set_title("Importance", pad=7)
    found = list(reversed(findings.importances))
    if not found:
        say(axes, importance.why_none(findings.record))
        return
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    for place, one in enumerate(found):
        axes.barh(place, one.share, height=0.5, color=BLUE, alpha=0.5, lw=0)
        # Shares of resamples need not lie around the share of the trials themselves.
        axes.plot([one.low, one.high], [place, place], color=INK, lw=1.2, marker="|", ms=8)
    axes.set_yticks(range(len(found)), [in_lines(shown_key(one.key)) for one in found])
    axes.set_ylim(-0.7, max(len(found) - 0.3, 1.7))
    axes.set_xlim(0, 1)
    axes.set_xlabel("share (PED-ANOVA), with its 95 % interval")


def _add_legend(made: Figure, findings: Findings) -> None:
    used = findings.used
    entries: list[tuple[str, dict[str, Any]]] = [
        (name, {"ls": "", **MARKS[kind]}) for kind, name in NAMES.items() if kind in used
    ]
    if len(findings.record.objectives) > 1:
        look = {"color": BLUE, "lw": 1.4, "marker": "o", "ms": 5}
        entries.append(("Pareto front", look))
    else:
        entries.append(("best so far", {"color": BLUE, "lw": 1.6}))
    if "best" in used or len(findings.record.objectives) == 1:
        lowest = "best trial" if len(findings.record.objectives) == 1 else "lowest loss"
        entries.append((lowest, {"ls": "", **response.STAR, "ms": 10}))
    if used & {"paper", "paper's line"}:
        line = drawing.DASHES if "paper's line" in used else ""
        entries.append(("the paper's setting", {"ls": line, "lw": 1.1, **PAPER, "ms": 6}))
    if "paper predicted" in used:
        look = {**PAPER, "mfc": "white", "mec": PAPER["color"], "ms": 6, "ls": ""}
        entries.append(("the paper's setting, predicted", look))
    made.legend(
        handles=[Line2D([], [], label=label, **look) for label, look in entries],
        loc="outside lower center",
        ncols=min(len(entries), 5 if len(entries) != 6 else 3),
        columnspacing=1.6,
        handletextpad=0.5,
    )
