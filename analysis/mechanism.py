"""The mechanism: which part of SPAM does its work? A question of this laboratory, not of the paper.

Effects of number format, reset, running bias correction and clipping on the loss, from two
factorials over paired seeds (`factorial`); Adam's variants and SPAM's reference code beside them;
and what all of it answers, in words that are made from the numbers. No number of the paper belongs
here: it reports SPAM as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import document, mechanism_answer, mechanism_figure
from analysis.cell_table import Key, cell_table, note, shown_perplexity
from analysis.claims import Answer, Claim, every_pair
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.factorial import Effect, Levels, effects, holm_over, pooled
from analysis.frames import cells as cells_of
from analysis.frames import rows_of
from analysis.stats import Cell
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

FORMAT, RESET, RUNNING, CLIP = "float32 moments", "reset", "running correction", "clipping"

FAMILIES = {
    "mapped": "β2 mapped to this scale",
    "printed": "β2 = 0.999 as printed",
}
"""Panel of a factorial -> its words."""

CONTROLS = {
    "adam": "Adam",
    "adam_fp32_states": "Adam, float32 moments",
    "adam_norm_clip": "Adam, norm clip 1",
    "adam_beta2_0.95": "Adam, β2 = 0.95",
    "adam_sawtooth": "Adam, SPAM's saw-tooth",
    "spam": "SPAM",
    "spam_reference": "SPAM, reference code",
    "spam_reference_beta2_0.999": "reference code, β2 = 0.999",
}
RATES = {"x0.5": 0.5, "controls": 1.0, "x2": 2.0}
"""Panel -> multiple of the learning rate."""

OURS = "a question of this laboratory, which the paper does not ask"
CLAIMS = {
    "beats_adam": Claim(
        "mechanism.beats_adam",
        "SPAM is better than Adam with moments of either number format, at the same learning rate",
        "Section 4, Table 1, where both are in pure bfloat16; float32 moments are " + OURS,
        own=True,
    ),
    "reset": Claim(
        "mechanism.reset",
        "Resetting the moments lowers the loss, whatever the bias correction counts",
        "Section 3: “periodic reset of the first and second moments to eliminate the harmful "
        "accumulation of spiked gradients”; to part it from the step size is " + OURS,
        own=True,
    ),
    "reset_fp32": Claim(
        "mechanism.reset_fp32",
        "Resetting the moments lowers the loss where they are float32 too",
        "in bfloat16 a reset also frees a second moment that rounding holds up; " + OURS,
        own=True,
    ),
    "steps": Claim(
        "mechanism.steps",
        "SPAM is better than Adam that takes steps as large (its saw-tooth on the learning rate)",
        OURS,
        own=True,
    ),
    "clip": Claim(
        "mechanism.clip",
        "Spike-aware clipping lowers the loss",
        "Section 3: “identification and adaptive re-scaling of spiked gradients”; to test it "
        "averaged over format and reset is " + OURS,
        own=True,
    ),
}


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `mechanism`."""
    cells = cells_of(frame, cell_name)
    table = cell_table(frame, requests, cells, as_run)
    found = {family: factorial_effects(family, cells) for family in FAMILIES}
    answers = _answers(cells)
    resets = next(answer for answer in answers if answer.claim is CLAIMS["reset"])
    setting = document.setting(requests)
    return Exhibit(
        name="mechanism",
        title=f"The mechanism at scale {scale.name}: which part of SPAM does its work",
        summary=(
            "Effects on the validation loss (below zero, it lowers the loss) with 95 % intervals "
            "over paired seeds, of the parts of SPAM and of what else changes with them. "
            "This is a study of this laboratory: the paper has no numbers to stand beside it."
        ),
        figure=mechanism_figure.figure(found, FAMILIES, cells, CONTROLS, RATES, setting),
        table=table,
        answers=answers,
        sections=(
            mechanism_answer.section(found, FAMILIES, cells, RATES, resets, requests),
            document.claims(answers),
            *(_effects_section(family, found[family]) for family in FAMILIES),
            _cells_section(cells, table),
            _method_section(),
            document.what_was_run(requests, frame),
            document.limits(scale, answers, mechanism_answer.reach(requests)),
            document.runs_behind(cells, frame),
        ),
    )


def cell_name(panel: str, value: Value) -> str:
    """What a cell is called in sentences."""
    name = CONTROLS.get(str(value), str(value).replace("/", ", "))
    if panel in FAMILIES:
        return f"{name} ({FAMILIES[panel]})"
    return name if RATES[panel] == 1 else f"{name}, at {RATES[panel]:g} × lr"


def as_run(request: Request) -> str:
    """What differs between cells, from the run's own config."""
    optimizer: Any = request.config.optimizer
    shown = f"{optimizer.name}, lr {optimizer.lr:g}, β2 {optimizer.beta2:g}"
    if getattr(optimizer, "delta_t", None):
        shown += f", ΔT {optimizer.delta_t}, N {optimizer.warmup_steps}"
    return shown


def factorial_effects(family: str, cells: Mapping[Key, Cell]) -> list[Effect]:
    """All effects of one factorial, in one family of Holm's correction.

    Format, reset and clipping are a full factorial, in which a reset is the mean of its two
    corrections. The running correction is a factor among the cells with resets alone, where it is
    one with format and clipping.
    """
    three: dict[Levels, Cell] = {}
    among: dict[Levels, Cell] = {}
    for fp32 in (False, True):
        for clip in (False, True):
            none, running, restarted = (
                _of(family, fp32, reset, clip, cells) for reset in ("none", "running", "restarted")
            )
            three[fp32, False, clip] = none
            three[fp32, True, clip] = pooled("reset", [running, restarted])
            among[fp32, True, clip], among[fp32, False, clip] = running, restarted
    return holm_over(
        [
            *effects((FORMAT, RESET, CLIP), three),
            *effects((FORMAT, RUNNING, CLIP), among, only=RUNNING),
        ]
    )


def _of(family: str, fp32: bool, reset: str, clip: bool, cells: Mapping[Key, Cell]) -> Cell:
    value = f"{'fp32' if fp32 else 'bf16'}/{reset}/{'clip' if clip else 'unclipped'}"
    return cells.get((family, value), Cell(cell_name(family, value)))


def _answers(cells: Mapping[Key, Cell]) -> tuple[Answer, ...]:
    def control(name: str) -> Cell:
        return cells.get(("controls", name), Cell(cell_name("controls", name)))

    def mean(words: str, reset: str | None = None, **fixed: bool) -> Cell:
        """The mean over the mapped factorial's cells with these levels."""
        resets = ("none", "running", "restarted") if reset is None else (reset,)
        chosen = [
            _of("mapped", fp32, one, clip, cells)
            for fp32 in (False, True)
            for clip in (False, True)
            for one in resets
            if fixed.get("fp32", fp32) == fp32 and fixed.get("clip", clip) == clip
        ]
        return pooled(words, chosen)

    none, adam, spam = mean("no reset", "none"), control("adam"), control("spam")
    resets = [mean(f"reset, {kind} correction", kind) for kind in ("running", "restarted")]
    none32 = mean("no reset in float32", "none", fp32=True)
    resets32 = [
        mean(f"reset, {kind} correction, in float32", kind, fp32=True)
        for kind in ("running", "restarted")
    ]
    tests = {
        "beats_adam": [(spam, adam), (spam, control("adam_fp32_states"))],
        "reset": [(cell, none) for cell in resets],
        "reset_fp32": [(cell, none32) for cell in resets32],
        "steps": [(spam, control("adam_sawtooth"))],
        "clip": [(mean("clipping", clip=True), mean("no clipping", clip=False))],
    }
    return tuple(every_pair(claim, tests[key]) for key, claim in CLAIMS.items())


def _effects_section(family: str, found: Sequence[Effect]) -> Section:
    rows = []
    for effect in found:
        test = effect.comparison
        difference = test.difference
        if difference is None:
            rows.append((effect.name, "–", "–", "–", "–", test.reason))
            continue
        rows.append(
            (
                effect.name,
                f"{difference.mean:+.4f}",
                f"[{difference.low:+.4f}, {difference.high:+.4f}]",
                f"{difference.p:.4f}",
                f"{test.adjusted_p:.4f}",
                mechanism_answer.direction(test),
            )
        )
    headers = ["effect", "loss", "95 % interval", "p", "Holm p", "says"]
    return Section(f"Effects, {FAMILIES[family]}", document.table(headers, rows))


def _cells_section(cells: Mapping[Key, Cell], table: pd.DataFrame) -> Section:
    rows = [
        (
            row["panel"],
            cells[key].name,
            row["as_run"],
            len(cells[key].losses),
            shown_perplexity(cells[key]),
            "–" if pd.isna(row["clipped_entries_mean"]) else f"{row['clipped_entries_mean']:,.0f}",
            note(cells[key]),
        )
        for key, row in zip(cells, rows_of(table), strict=True)
    ]
    headers = ["panel", "cell", "as run", "n", "perplexity", "entries clipped a run", "remarks"]
    return Section("Cells", document.table(headers, rows))


def _method_section() -> Section:
    return Section(
        "How effects are worked out",
        "An effect is the mean loss of the cells with the factor on minus that of the cells with "
        "it off, each weighted alike; an interaction, the mean of the cells with an even number "
        "of its factors off minus that of the others, which is half of what one factor changes in "
        "the effect of another. It is worked out within each seed, whose weights and batches all "
        "cells share, and its t interval is over the seeds. Holm's correction is over the eleven "
        "effects of a factorial. A reset is the zeroing of the moments with the warm-up N after "
        "it. Without resets a running and a restarted bias correction are one optimizer, so the "
        "correction is a factor among the cells with resets, and the effect `reset` is of the "
        "mean of the two. All steps are fused (float32 inside a step, one rounding at its end) "
        "but for the reference code's, which rounds every operation. Learning rates are the same "
        "for all cells of a panel: they are SPAM's own, and Adam's; the key cells at half and "
        "twice of it show who would gain from another.",
    )
