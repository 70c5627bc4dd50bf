"""Spikes beside bumps of the loss: which bumps have spikes before, at and after them, and whether
that is more than chance.

Bumps of the training loss and bursts of spikes are found by the rule of `analysis.bumps`, bursts in
the logarithm of 1 + the number of spikes a step. A step's loss and its gradient come from the same
batch, so spikes at a bump may be no more than a hard batch; only those before it can have caused
it. The layers' own weights are tested first (attention, feed-forward, norms): in embedding and head
rare tokens spike whenever they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis import document, spikes
from analysis.bumps import Bump, Chance, Flags, Rule, Window, bumps, by_chance, flags, near
from analysis.claims import Answer, Claim, Part
from analysis.spikes import ObservedRun
from analysis.stats import CONFIDENCE, Verdict, all_of, holm
from spam_lab.record.observations import Observations

LAYERS = ("attention", "ffn", "norm")
LOSS_RULE = Rule()
BURST_RULE = Rule(gap=1)
REACH = 10
"""Steps before and after a bump that count as near it."""

BEFORE = Window("before", -REACH, -1)
AT = Window("at", 0, 0, to_end=True)
AFTER = Window("after", 1, REACH, from_end=True)
WINDOWS = (BEFORE, AT, AFTER)
LEVEL = 1 - CONFIDENCE

TEST = (
    f"circular shift test on the bumps that have a burst of spikes in the layers, over all seeds, "
    f"one-sided 5 %, 4999 shifts; before: the {REACH} steps before a bump's first; at: from its "
    f"first to its last; after: the {REACH} after its last"
)


@dataclass(frozen=True)
class Aligned:
    """One cell's runs: the bumps of each and, where there are observations, what burst when."""

    name: str
    runs: tuple[tuple[ObservedRun, Observations, list[Bump]], ...]
    obstacle: str = ""

    @property
    def bumps(self) -> int:
        """How many bumps all runs have."""
        return sum(len(found) for _, _, found in self.runs)

    def chance(self, window: Window, kinds: Sequence[str] = LAYERS) -> Chance:
        """Bumps with a burst in their window, against circular shifts."""
        marked = [(found, bursts(seen, kinds)) for _, seen, found in self.runs]
        return by_chance(marked, window, first_step=1)

    def layer_of(self, tensor: str) -> str:
        """The layer that a tensor is in: its number, or its kind outside the layers."""
        table = self.runs[0][1].parameters
        row = table[table["name"].astype(str) == tensor].iloc[0]
        return str(row["kind"]) if pd.isna(row["layer"]) else str(row["layer"])

    def sides(self) -> tuple[int, int]:
        """How many bumps have a burst before them and none after, and the other way round."""
        before, after = 0, 0
        for _, seen, found in self.runs:
            marked = bursts(seen)
            one, other = near(found, marked, BEFORE, 1), near(found, marked, AFTER, 1)
            before, after = before + int((one & ~other).sum()), after + int((other & ~one).sum())
        return before, after


def aligned(name: str, runs: Sequence[ObservedRun]) -> Aligned:
    """The bumps of a cell's runs."""
    found = tuple((run, seen, loss_bumps(seen)) for run, seen in spikes.seen_of(runs))
    lost = sorted({run.state for run in runs if run.seen is None})
    obstacle = ""
    if not runs:
        obstacle = f"{name} was not asked for"
    elif lost:
        obstacle = f"{len(runs) - len(found)} of {len(runs)} runs of {name} are {', '.join(lost)}"
    return Aligned(name, found, obstacle)


def loss_bumps(seen: Observations) -> list[Bump]:
    """The bumps of a run's training loss; steps count from 1."""
    return bumps(np.asarray(seen.losses(), dtype=np.float64), LOSS_RULE, first_step=1)


def bursts(seen: Observations, kinds: Sequence[str] = LAYERS) -> Flags:
    """bool [steps]: where the number of spikes in the given kinds of layers bursts."""
    return _bursts(spikes.by_step(seen, kinds))


def tensor_bursts(seen: Observations) -> dict[str, Flags]:
    """The same for each tensor, in the model's order."""
    counts = spikes.counted(seen).pivot(index="step", columns="name", values="count")
    return {
        name: _bursts(counts[name].to_numpy(np.int64))
        for name in seen.parameters["name"].astype(str)
    }


def _bursts(counts: np.ndarray) -> Flags:
    curve = np.log1p(counts)
    return flags(bumps(curve, BURST_RULE, first_step=1), len(curve), first_step=1)


def more_than_chance(claim: Claim, cells: Sequence[Aligned], window: Window) -> Answer:
    """In every cell more bumps have a burst in their window than by chance."""
    parts = _chance_parts(cells, window)
    return Answer(claim, all_of([p.verdict for p in parts]), _test(cells), "", tuple(parts))


def come_before(claim: Claim, cells: Sequence[Aligned]) -> Answer:
    """Bursts lie before bumps more often than by chance, and more often than after them."""
    parts = _chance_parts(cells, BEFORE)
    for cell in cells:
        text = f"{cell.name}: more bumps have spikes before them alone than after them alone"
        before, after = cell.sides()
        if cell.obstacle or before + after == 0:
            reason = cell.obstacle or "no bump has spikes on one side alone"
            parts.append(Part(text, Verdict.UNDECIDED, reason))
            continue
        p = float(stats.binomtest(before, before + after).pvalue)
        verdict = Verdict.UNDECIDED
        if p < LEVEL:
            verdict = Verdict.HOLDS if before > after else Verdict.FAILS
        parts.append(Part(text, verdict, f"{before} and {after}, exact sign test p={p:.2g}"))
    test = f"{_test(cells)}; and an exact two-sided sign test of before against after"
    return Answer(claim, all_of([part.verdict for part in parts]), test, "", tuple(parts))


def _test(cells: Sequence[Aligned]) -> str:
    holm_over = f", Holm over {len(cells)} cells" if len(cells) > 1 else ""
    return f"{TEST}{holm_over}; fails where they are fewer than by chance"


def _chance_parts(cells: Sequence[Aligned], window: Window) -> list[Part]:
    chances = [cell.chance(window) for cell in cells]
    more, fewer = holm([c.more for c in chances]), holm([c.fewer for c in chances])
    parts = []
    for cell, chance, over, under in zip(cells, chances, more, fewer, strict=True):
        text = f"{cell.name}: spikes {window.name} more bumps than by chance"
        verdict = Verdict.UNDECIDED
        detail = cell.obstacle
        if not detail:
            detail = (
                f"{chance.seen} of {chance.among} bumps, {chance.expected:.2f} by chance, "
                f"p={chance.more:.2g}, Holm p={over:.2g}"
            )
            if over < LEVEL:
                verdict = Verdict.HOLDS
            elif under < LEVEL:
                verdict = Verdict.FAILS
        parts.append(Part(text, verdict, detail))
    return parts


def significant_tensors(cell: Aligned) -> list[tuple[str, Chance, float]]:
    """Each tensor's bursts at or before bumps: the chance, and Holm's p over all tensors."""
    window = Window("at or before", -REACH, 0, to_end=True)
    marks: dict[str, list[tuple[list[Bump], Flags]]] = {}
    for _, seen, found in cell.runs:
        for name, marked in tensor_bursts(seen).items():
            marks.setdefault(name, []).append((found, marked))
    chances = [
        by_chance(of_tensor, window, first_step=1, shifts=4999) for of_tensor in marks.values()
    ]
    adjusted = holm([chance.more for chance in chances])
    return list(zip(marks, chances, adjusted, strict=True))


def kinds_table(cells: Sequence[Aligned]) -> str:
    """Markdown: bumps with bursts before, at and after, by kind of layer, beside chance."""
    rows = []
    for cell in cells:
        for label, kinds in {"all layers": LAYERS, **{k: (k,) for k in spikes.KINDS}}.items():
            if not cell.runs:
                continue
            shown = []
            for window in WINDOWS:
                chance = cell.chance(window, kinds)
                shown.append(f"{chance.seen} ({chance.expected:.2f}, p={chance.more:.2g})")
            name = spikes.KIND_NAMES.get(label, label)
            rows.append((cell.name, name, cell.bumps, *shown))
    return document.table(["cell", "spikes in", "bumps", *(w.name for w in WINDOWS)], rows)


def bump_table(cells: Sequence[Aligned]) -> pd.DataFrame:
    """One row a bump: its steps, height, and at which steps the layers' spikes burst near it."""
    rows = []
    for cell in cells:
        for run, seen, found in cell.runs:
            marked = bursts(seen)
            for bump in found:
                first, last = max(1, bump.start - REACH), min(len(marked), bump.end + REACH)
                steps = [s for s in range(first, last + 1) if marked[s - 1]]
                rows.append(
                    {
                        "cell": cell.name,
                        "seed": run.seed,
                        "start": bump.start,
                        "peak": bump.peak,
                        "end": bump.end,
                        "height": bump.height,
                        "bursts_near": " ".join(map(str, steps)),
                        "run_id": run.run_id,
                    }
                )
    columns = ["cell", "seed", "start", "peak", "end", "height", "bursts_near", "run_id"]
    return pd.DataFrame(rows, columns=columns)
