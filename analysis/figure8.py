"""Figure 8: gradient, first and second moment of real weights around a spike (Appendix H).

The paper draws them without values. Drawn is the largest gradient of each seed; tested are all
spiking weights that were followed: how many steps m and v take to come back below twice their level
before the spike. A weight's level is the median over the steps before; one without a gradient at
most of these steps (a rare token's row) has none to come back to, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import document, drawing, spikes
from analysis.claims import Answer, Claim
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.spikes import THRESHOLD, ObservedRun
from analysis.stats import CONFIDENCE, Cell
from spam_lab.config.schema import ScaleConfig
from spam_lab.record.observations import Observations, scores

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

SOURCE = "Figure 8, Appendix H"
KEY = ("llama_60m", "adam")
LEVEL_STEPS = 50
"""Steps before a spike that its level is the median of."""

MULTIPLE = 2.0
"""A moment has come back once it is at most this many times its level."""

ROOM = 40
"""Steps that a gradient must have after it to be followed: what m needs to forget a spike."""

LEAST_SCORE = 10.0
"""Score above which a weight's largest gradient is followed. The claim is tested on spikes, above
the paper's 50; the lesser ones stand beside them."""

NONE_FOLLOWED = "done without a followed spike"

LONGER = Claim(
    "figure8.longer",
    "After a spike, v stays inflated longer than m",
    f"{SOURCE}: “gradient spikes also have a significant and prolonged detrimental impact on "
    "moments, especially on the second moment”",
)


@dataclass(frozen=True)
class Spike:
    """One followed weight's largest gradient, and how many steps its moments took to come back.

    `m_steps` and `v_steps` are numbers of steps until the moment is at most MULTIPLE times its
    level before; where the run ended first, the steps that were left, and `m_open` or `v_open`.
    """

    name: str
    kind: str
    index: int
    step: int
    score: float
    m_steps: int
    m_open: bool
    v_steps: int
    v_open: bool
    path: pd.DataFrame


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `figure8`."""
    runs = spikes.observed_runs(frame)[KEY]
    found = {run.run_id: followed(seen) for run, seen in spikes.seen_of(runs)}
    answer = _answer(runs, found)
    table = _table(runs, found)
    optimizer = requests[0].config.optimizer
    beta2 = float(getattr(optimizer, "beta2", math.nan))
    return Exhibit(
        name="figure8",
        title=f"Figure 8 at scale {scale.name}: moments around a gradient spike",
        summary=(
            f"LLaMA-60M with Adam on `{spikes.corpus(requests)}`, β2 = {beta2:g}. The paper "
            f"prints no values of this figure ({SOURCE}); its simulation (Figure 5) gives about 50 "
            "steps for m and more than 200 for v at β2 = 0.999."
        ),
        figure=_figure(runs, found, answer, document.setting(requests)),
        table=table,
        answers=(answer,),
        sections=(
            Section("Steps until the moments come back", _values(table)),
            _caught(runs, table, requests),
            _what_is_followed(beta2),
            document.claims((answer,)),
            document.what_was_run(requests, frame),
            spikes.limits(
                scale,
                "The memory of v is shortened with the other intervals: β2 here stands for the "
                "paper's 0.999.",
            ),
            spikes.runs_behind({KEY: runs}),
        ),
    )


def followed(seen: Observations) -> list[Spike]:
    """The largest gradient of every followed weight that has a level and room; highest first."""
    scored = scores(seen.trajectories)
    about = seen.coordinates.set_index("coordinate")
    result = []
    for coordinate, path in scored.groupby("coordinate"):
        largest = _largest(path.sort_values("step"))
        if largest is None:
            continue
        place, of_weight = largest
        row = about.loc[[coordinate]].iloc[0]
        m_steps, m_open = steps_back(of_weight["m"].to_numpy(np.float64), place)
        v_steps, v_open = steps_back(of_weight["v"].to_numpy(np.float64), place)
        result.append(
            Spike(
                str(row["name"]),
                str(row["kind"]),
                int(row["index"]),
                int(of_weight["step"].iloc[place]),
                float(of_weight["definition"].iloc[place]),
                m_steps,
                m_open,
                v_steps,
                v_open,
                of_weight,
            )
        )
    return sorted(result, key=lambda spike: -spike.score)


def _largest(path: pd.DataFrame) -> tuple[int, pd.DataFrame] | None:
    """Where a weight's largest gradient lies, if it is a spike with a level and room."""
    score = path["definition"].to_numpy(np.float64)
    if not np.isfinite(score).any() or path["v"].isna().all():
        return None
    place = int(np.nanargmax(score))
    before = path["gradient"].to_numpy(np.float64)[max(0, place - LEVEL_STEPS) : place]
    has_level = len(before) == LEVEL_STEPS and np.median(np.abs(before)) > 0
    if score[place] <= LEAST_SCORE or len(path) - place <= ROOM or not has_level:
        return None
    return place, path


def steps_back(moment: np.ndarray, place: int) -> tuple[int, bool]:
    """Steps from `place` until |moment| is at most MULTIPLE times its level before; and whether the
    run ended first."""
    magnitude = np.abs(moment)
    level = float(np.median(magnitude[place - LEVEL_STEPS : place]))
    back = np.flatnonzero(magnitude[place:] <= MULTIPLE * level)
    return (int(back[0]), False) if len(back) else (len(moment) - place, True)


def _answer(runs: Sequence[ObservedRun], found: Mapping[str, Sequence[Spike]]) -> Answer:
    """v takes more steps than m, in the median over a seed's followed spikes above THRESHOLD."""

    def cell(name: str, attribute: str) -> Cell:
        values = {
            run.seed: [s for s in found.get(run.run_id, ()) if s.score > THRESHOLD] for run in runs
        }
        return Cell(
            name=name,
            losses={
                seed: math.log(1 + median(getattr(spike, attribute) for spike in of_seed))
                for seed, of_seed in values.items()
                if of_seed
            },
            diverged=frozenset(run.seed for run in runs if run.state == "diverged"),
            incomplete={
                run.seed: run.state if run.seen is None else NONE_FOLLOWED
                for run in runs
                if not values[run.seed] and run.state != "diverged"
            },
        )

    pair = (cell("m", "m_steps"), cell("v", "v_steps"))
    return spikes.fewer(
        LONGER,
        [pair],
        "takes fewer steps to come back than",
        of="the logarithm of 1 + the median number of steps, over a seed's followed gradients of "
        f"score above {THRESHOLD:g},",
    )


def _caught(
    runs: Sequence[ObservedRun], table: pd.DataFrame, requests: Sequence[Request]
) -> Section:
    """How many spikes were followed, of how many there were, and what would be enough."""
    rows, usable = [], []
    for run, seen in spikes.seen_of(runs):
        highest = scores(seen.trajectories).groupby("coordinate")["definition"].max()
        tested = table[(table["run_id"] == run.run_id) & (table["score"] > THRESHOLD)]
        usable.append(len(tested))
        rows.append(
            (
                run.seed,
                f"{len(highest):,} of {spikes.weights(seen):,}",
                f"{int((highest > THRESHOLD).sum()):,}",
                len(tested),
                f"{spikes.spikes(seen):,}",
            )
        )
    if not rows:
        return Section("How many spikes were followed", "No run has a result.")
    headers = ["seed", "weights followed", f"of these with a score above {THRESHOLD:g}"]
    headers += ["with a level before and room after it", "spikes in all weights"]
    each = requests[0].config.observe.coordinates
    words = (
        f"The claim rests on {sum(usable)} spikes in {sum(n > 0 for n in usable)} of {len(usable)} "
        f"seeds, of {each} weights followed in each kind of each layer (`observe.coordinates`). "
        "The others above the threshold have no level, as the row of a rare token, or no room."
    )
    if sum(usable):
        needed = enough_coordinates(each, sum(usable) / len(usable), len(usable))
        words += (
            " If spikes fell on weights independently and as often as here, every seed would have "
            f"one with a probability of 95 % where {needed:,} were followed."
        )
    return Section("How many spikes were followed", f"{document.table(headers, rows)}\n\n{words}")


def enough_coordinates(each: int, mean: float, seeds: int, confidence: float = CONFIDENCE) -> int:
    """How many weights a group must follow for every seed to have a spike.

    Args:
        each: weights followed in a group now.
        mean: spikes a seed has now, on average, above 0; taken as Poisson and in proportion.
        seeds: how many seeds there are.
        confidence: the probability that all have one.
    """
    needed = -math.log1p(-(confidence ** (1 / seeds)))
    return math.ceil(each * needed / mean)


def _what_is_followed(beta2: float) -> Section:
    memory = f"{1 / (1 - beta2):,.0f} steps" if beta2 < 1 else "no decay"
    return Section(
        "What is followed",
        f"Of every followed weight the largest gradient, if its score is above {LEAST_SCORE:g}, "
        f"with {LEVEL_STEPS} steps before it, at most half of them without a gradient, and {ROOM} "
        f"after it. A moment has come back once it is at most {MULTIPLE:g} times the median of its "
        f"magnitude over the {LEVEL_STEPS} steps before. Where the run ends first, the steps that "
        "were left count: too few, and more often for v than for m. A moment whose gradients grow "
        "as training goes on comes back later than a spike alone would have it. The memory of v, "
        f"1/(1 - β2), is {memory}: one gradient of score s raises v by about (1 - β2) s² times "
        "the square of the weight's mean magnitude, so that v is doubled by a score above about "
        f"{math.sqrt(math.pi / 2 / (1 - beta2)):.0f} (normal gradients) and hardly touched by "
        "less.",
    )


def _table(runs: Sequence[ObservedRun], found: Mapping[str, Sequence[Spike]]) -> pd.DataFrame:
    """One row a followed spike."""
    rows = [
        {
            "seed": run.seed,
            "tensor": spike.name,
            "kind": spike.kind,
            "index": spike.index,
            "step": spike.step,
            "score": spike.score,
            "m_steps": spike.m_steps,
            "m_open": spike.m_open,
            "v_steps": spike.v_steps,
            "v_open": spike.v_open,
            "run_id": run.run_id,
        }
        for run in runs
        for spike in found.get(run.run_id, ())
    ]
    columns = ["seed", "tensor", "kind", "index", "step", "score"]
    columns += ["m_steps", "m_open", "v_steps", "v_open", "run_id"]
    return pd.DataFrame(rows, columns=columns)


def _values(table: pd.DataFrame) -> str:
    rows = []
    for seed, of_seed in table.groupby("seed"):
        for label, part in (
            (f"{LEAST_SCORE:g} to {THRESHOLD:g}", of_seed[of_seed["score"] <= THRESHOLD]),
            (f"above {THRESHOLD:g}", of_seed[of_seed["score"] > THRESHOLD]),
        ):
            if part.empty:
                rows.append((seed, label, 0, "–", "–", "–", "–"))
                continue
            rows.append(
                (
                    seed,
                    label,
                    len(part),
                    f"{part['m_steps'].median():g}",
                    f"{part['v_steps'].median():g}",
                    f"{part['m_open'].mean():.0%}",
                    f"{part['v_open'].mean():.0%}",
                )
            )
    if not rows:
        return "No run has a followed spike."
    headers = ["seed", "score", "gradients", "m: median steps", "v: median steps"]
    return document.table([*headers, "m not back at the end", "v not back at the end"], rows)


def _figure(
    runs: Sequence[ObservedRun],
    found: Mapping[str, Sequence[Spike]],
    answer: Answer,
    setting: str,
) -> Figure:
    with drawing.style():
        figure = drawing.new_figure(7.4, 6.4, f"Moments around a gradient spike, {setting}")
        grid = figure.subplots(3, max(1, len(runs)), sharex="col", squeeze=False)
        for column, run in enumerate(runs):
            of_run = found.get(run.run_id, ())
            grid[0, column].set_title(f"seed {run.seed}", pad=7)
            grid[2, column].set_xlabel("step")
            if of_run:
                _draw_spike(list(grid[:, column]), of_run[0])
                continue
            for axes in grid[:, column]:
                axes.set_xticks([])
                axes.set_yticks([])
            reason = run.state if run.seen is None else NONE_FOLLOWED
            grid[1, column].text(0.5, 0.5, reason, ha="center", fontsize=8, color=drawing.GREY)
        for axes, label in zip(grid[:, 0], ("gradient", "m", "v"), strict=True):
            axes.set_ylabel(label)
        figure.supxlabel(
            f"Dashed: {MULTIPLE:g} times the level of the {LEVEL_STEPS} steps before; dot: back "
            f"below it. “v stays inflated longer than m”: {answer.verdict}, from "
            f"{sum(s.score > THRESHOLD for of_run in found.values() for s in of_run)} spikes",
            fontsize=7.5,
            color=drawing.GREY,
            style="italic",
        )
    return figure


def _draw_spike(column: Sequence[Axes], spike: Spike) -> None:
    """The three curves of one weight, from before its spike to well after v came back."""
    first = max(1, spike.step - 2 * LEVEL_STEPS)
    last = spike.step + max(2 * ROOM, int(1.2 * spike.v_steps))
    path = spike.path[spike.path["step"].between(first, last)]
    before = spike.path[spike.path["step"].between(spike.step - LEVEL_STEPS, spike.step - 1)]
    steps = {"m": (spike.m_steps, spike.m_open), "v": (spike.v_steps, spike.v_open)}
    for axes, name in zip(column, ("gradient", "m", "v"), strict=True):
        axes.plot(path["step"], path[name], color=drawing.BLUE, lw=0.9)
        axes.axvline(spike.step, color=drawing.VERMILLION, lw=0.6, alpha=0.6, zorder=0)
        axes.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
        if name == "gradient":
            continue
        bound = MULTIPLE * float(before[name].abs().median())
        for level in (bound,) if name == "v" else (bound, -bound):
            axes.axhline(level, color=drawing.INK, ls=drawing.DASHES, lw=0.8, zorder=0.5)
        count, is_open = steps[name]
        words = f"not back in {count} steps" if is_open else f"back after {count} steps"
        _say(axes, words)
        if not is_open:
            back = spike.path[spike.path["step"] == spike.step + count]
            axes.plot(back["step"], back[name], "o", ms=5, color=drawing.VERMILLION)
    kind = spikes.KIND_NAMES.get(spike.kind, spike.kind)
    _say(column[0], f"{kind}, score {spike.score:.1f}")


def _say(axes: Axes, words: str) -> None:
    """Small words above a panel's right end."""
    axes.text(1, 1.02, words, transform=axes.transAxes, ha="right", va="bottom", fontsize=7.5)
