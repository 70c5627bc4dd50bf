"""Observed runs as the exhibits on gradient spikes use them: how often they spiked, with tests.

A gradient spikes here by the paper's Definition P.1 at its threshold of 50, over all observed
steps, wherever nothing else is said. A run whose model is too large for that in all its weights
(observe.definition=sampled) is counted by the running average, and every exhibit says which run is
counted how. Only finished runs whose window is closed are counted; every
other is kept with its state, and makes its cell incomplete. Counts are compared paired by seed,
with the rules of `analysis.stats`: those of two cells as logarithms of count + 1/2 (so that none is
a number too), where a difference is a ratio, those of kinds of layers as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis import document
from analysis.cell_table import Key
from analysis.claims import Answer, Claim, Part
from analysis.document import Section
from analysis.frames import RESULTS, rows_of
from analysis.stats import Cell, Comparison, all_of, compare, corrected
from spam_lab.config.schema import ScaleConfig
from spam_lab.record.observations import ObservationError, Observations, read_observations

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

DEFINITION, RUNNING = "definition", "running"
READING_NAMES = {DEFINITION: "Definition P.1", RUNNING: "running average"}
THRESHOLD = 50.0
"""The paper's threshold of the Gradient Spike Score (Section 2.1)."""

KINDS = ("embedding", "attention", "ffn", "norm", "head")
KIND_NAMES = {
    "embedding": "Embedding",
    "attention": "Attention",
    "ffn": "FFN",
    "norm": "LayerNorm",
    "head": "LM head",
}
MODEL_NAMES = {
    "llama_60m": "LLaMA-60M",
    "llama_350m": "LLaMA-350M",
    "llama_1b": "LLaMA-1B",
    "pythia_70m": "Pythia-70M",
}


@dataclass(frozen=True)
class ObservedRun:
    """One run of a cell. `seen` is None where it has nothing to count, and `state` says why."""

    seed: int
    run_id: str
    cell_id: str
    state: str
    seen: Observations | None


def observed_runs(frame: pd.DataFrame) -> dict[Key, list[ObservedRun]]:
    """The runs of every cell, by (panel, value), in the frame's order."""
    runs: dict[Key, list[ObservedRun]] = {}
    for row in rows_of(frame):
        state, seen = str(row["state"]), None
        if state == "done":
            try:
                seen = read_observations(Path(row["root"]), row["run_id"])
            except ObservationError:
                state = "done without observations"
        run = ObservedRun(row["seed"], row["run_id"], row["cell_id"], state, seen)
        runs.setdefault((row["panel"], row["value"]), []).append(run)
    return runs


def seen_of(runs: Sequence[ObservedRun]) -> list[tuple[ObservedRun, Observations]]:
    """Those that can be counted, with what they saw."""
    return [(run, run.seen) for run in runs if run.seen is not None]


def cell_of(name: str, runs: Sequence[ObservedRun], value: Callable[[Observations], float]) -> Cell:
    """A cell whose "losses" are `value` of every run that can be counted."""
    return Cell(
        name=name,
        cell_id=runs[0].cell_id if runs else "",
        losses={run.seed: value(seen) for run, seen in seen_of(runs)},
        diverged=frozenset(run.seed for run in runs if run.state == "diverged"),
        incomplete={
            run.seed: run.state for run in runs if run.seen is None and run.state not in RESULTS
        },
    )


def has_reading(seen: Observations, reading: str) -> bool:
    """Whether the run was counted so in all its weights."""
    return bool((seen.counts["reading"] == reading).any())


def reading_of(seen: Observations) -> str:
    """How the run is counted here: by the definition where it can be."""
    return DEFINITION if has_reading(seen, DEFINITION) else RUNNING


def unlike(seen: Iterable[Observations]) -> str:
    """What a title adds where runs are not counted by the definition."""
    return ", by running average" if RUNNING in map(reading_of, seen) else ""


def counted(
    seen: Observations, reading: str | None = None, threshold: float = THRESHOLD
) -> pd.DataFrame:
    """The counts of one reading: a row a step and tensor (step, name, kind, layer, count).

    Args:
        seen: the run.
        reading: default: the run's own, `reading_of`.
        threshold: of the score.

    Raises:
        ValueError: the run was not counted so; no count is not a count of none.
    """
    counts, reading = seen.counts, reading or reading_of(seen)
    chosen = counts[(counts["reading"] == reading) & (counts["threshold"] == threshold)]
    if chosen.empty:
        raise ValueError(f"no counts of the reading {reading} at a score of {threshold:g}")
    return chosen.astype({"kind": str, "name": str})


def spikes(seen: Observations, kinds: Sequence[str] = KINDS, reading: str | None = None) -> int:
    """How many gradients of the given kinds of layers spiked; `reading` as in `counted`."""
    counts = counted(seen, reading)
    return int(counts.loc[counts["kind"].isin(list(kinds)), "count"].sum())


def weights(seen: Observations, kinds: Sequence[str] = KINDS) -> int:
    """How many weights the given kinds of layers have."""
    table = seen.parameters
    return int(table.loc[table["kind"].astype(str).isin(list(kinds)), "entries"].sum())


def by_step(seen: Observations, kinds: Sequence[str] = KINDS) -> np.ndarray:
    """int64 [steps]: how many gradients of the given kinds spiked at each step."""
    counts = counted(seen)
    chosen = counts[counts["kind"].isin(list(kinds))]
    steps = pd.RangeIndex(1, seen.about["steps"] + 1)
    return chosen.groupby("step")["count"].sum().reindex(steps, fill_value=0).to_numpy(np.int64)


def by_tensor(seen: Observations) -> pd.Series[int]:
    """How many gradients spiked in each tensor, in the model's order."""
    counts = counted(seen).groupby("name")["count"].sum()
    return counts.reindex(seen.parameters["name"].astype(str)).astype(int)


def log_count(count: float, size: float = 1.0) -> float:
    """The logarithm that counts are compared by, of count + 1/2 over a size."""
    return math.log((count + 0.5) / size)


def fewer(
    claim: Claim, pairs: Sequence[tuple[Cell, Cell]], words: str, detail: str = "", of: str = ""
) -> Answer:
    """The first cell of every pair has the lower value; `words` stand between their names.

    Values are logarithms of counts, and differences ratios, unless `of` says what else they are.
    """
    tested = corrected([compare(low, high) for low, high in pairs])
    parts = tuple(_part(comparison, words, not of) for comparison in tested)
    value = of or "log(count + 1/2)"
    test = f"paired t test on {value} over common seeds, two-sided 95 %"
    if len(tested) > 1:
        test += f", Holm over {len(tested)} comparisons; holds if all hold, fails if any fails"
    verdict = all_of([part.verdict for part in parts])
    return Answer(claim, verdict, test, detail, parts, tested=tuple(tested), is_ratio=not of)


def _part(comparison: Comparison, words: str, is_ratio: bool) -> Part:
    text = f"{comparison.better.name} {words} {comparison.worse.name}"
    difference = comparison.difference
    if difference is None:
        return Part(text, comparison.verdict, comparison.reason)
    mean, low, high = difference.mean, difference.low, difference.high
    if is_ratio:
        mean, low, high = math.exp(mean), math.exp(low), math.exp(high)
    return Part(
        text,
        comparison.verdict,
        f"{'ratio' if is_ratio else 'difference'} {_short(mean)} [{_short(low)}, {_short(high)}], "
        f"n={difference.n}, p={difference.p:.2g}, Holm p={comparison.adjusted_p:.2g}",
    )


def limits(scale: ScaleConfig, reaches: str) -> Section:
    """What this scale can decide of spikes: how far it is from the paper, and `reaches`."""
    section = document.limits(scale, (), reaches)
    body = section.body.removesuffix(document.NOT_TESTED).rstrip()
    return Section(section.heading, body)


def model_name(panel: str, value: object = "adam") -> str:
    """What a cell is called: its model, and its corpus where that is not the command line's."""
    name = MODEL_NAMES.get(panel, panel)
    return f"{name} (SlimPajama)" if value == "slimpajama" else name


def corpus(requests: Sequence[Request]) -> str:
    """The corpus that the command line chose."""
    return next(r.config.data.name for r in requests if r.labels["value"] != "slimpajama")


def spread(values: Sequence[float]) -> str:
    """A mean with the smallest and largest over seeds, as tables show counts."""
    if not values:
        return "–"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:,.4g}"
    return f"{_short(mean)} ({_short(min(values))} to {_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def runs_behind(runs: Mapping[Key, Sequence[ObservedRun]]) -> Section:
    """Every cell with its runs and how many gradients spiked in each."""
    rows = []
    for (panel, value), of_cell in runs.items():
        shown = "; ".join(
            f"{run.seed}: `{run.run_id}` "
            + (run.state if run.seen is None else f"{spikes(run.seen):,}")
            for run in of_cell
        )
        readings = dict.fromkeys(READING_NAMES[reading_of(seen)] for _, seen in seen_of(of_cell))
        by = ", ".join(readings) or "–"
        rows.append((panel, value, f"`{of_cell[0].cell_id}`", shown, by))
    headers = ["model", "cell", "cell_id", "seed: run_id, spikes or state", "counted by"]
    return Section("The runs behind each cell", document.table(headers, rows))


def observed(requests: Sequence[Request]) -> Section:
    """What was observed, and what a spike is; and where it is another, for want of memory."""
    config = requests[0].config
    sampled = dict.fromkeys(
        model_name(str(r.labels["panel"]))
        for r in requests
        if r.config.observe.definition == "sampled"
    )
    running = ""
    if sampled:
        running = (
            f"\n\nNot so in {' and '.join(sampled)}: exact counts by the definition take up to "
            "135 bytes a weight (160 in float32) while the window is young, more than a GPU has to "
            "spare, so there it is left to the weights that are followed "
            "(`observe.definition=sampled`). All weights are counted by the running average: a "
            "gradient spikes where it is above "
            f"{THRESHOLD:g} times the mean magnitude of the weight's gradients so far, its own "
            f"included. None can before step {THRESHOLD + 1:g}, so a bump before it counts against "
            "the claims, and gradients that grow as training goes on spike more often so than by "
            "the definition. Counts of the two readings are never compared with each other."
        )
    return Section(
        "What is counted",
        f"The first {config.schedule.steps:,} steps of {config.optimizer.name}, all of them in the "
        "learning rate's warm-up, as the paper's are. A gradient spikes where its magnitude is "
        f"above {THRESHOLD:g} times the mean magnitude of all gradients that the same weight had "
        "in these steps (Definition P.1; the gradient of the whole batch, before anything the "
        "optimizer does). So a weight can spike at fewer than "
        f"{config.schedule.steps / THRESHOLD:g} steps, and one whose gradient is zero in nearly "
        "all of them, the row of a rare token in the embedding, spikes whenever the token comes: "
        "that is arithmetic, not instability." + running,
    )
