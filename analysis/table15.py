"""Table 15: full, low-rank and sparse fine-tuning on eight commonsense tasks (Appendix Q.1).

Accuracies of each task and their average, ours beside the paper's, and beside both the memory that
each method takes at the paper's model, counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from analysis import document, drawing, finetuned
from analysis.accuracies import accuracy
from analysis.cell_table import Key, note
from analysis.claims import Answer, Part
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.finetuning_memory import Bytes, at_paper_size
from analysis.frames import cells as cells_of
from analysis.kept import kept
from analysis.method_table import footer
from analysis.paper_finetuning import (
    AVERAGE,
    BEATS_MEMORY_EFFICIENT,
    EXCEEDS_FULL,
    TABLE15,
    TABLE15_DEVIATION,
    TABLE15_MEMORY,
    TABLE15_METHODS,
    TABLE15_SOURCE,
    TABLE15_TASKS,
    memory_is_comparable,
)
from analysis.stats import Cell, Verdict
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

PANEL = "commonsense"
TOLERANCE = 0.05
GIGABYTE = 1e9
TICKS = ("Adam\n(full)", "LoRA", "GaLore", "SPAM\n0.25 %", "SPAM\n100 %")


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table15`."""
    cells = cells_of(frame, cell_name, finetuned.ERROR)
    with kept(Path(frame["root"].iloc[0]), "memory") as known:
        memory = {str(value): at_paper_size(str(value), known) for _, value in cells}
    pairs = [(_cell(cells, "spam_sparse"), _cell(cells, low)) for low in ("lora", "galore")]
    full = [(_cell(cells, spam), _cell(cells, "adam")) for spam in ("spam_sparse", "spam")]
    answers = (
        finetuned.answer(BEATS_MEMORY_EFFICIENT, pairs),
        finetuned.answer(EXCEEDS_FULL, full),
        memory_answer(memory),
    )
    return Exhibit(
        name="table15",
        title=f"Table 15 at scale {scale.name}: fine-tuning on eight commonsense tasks",
        summary=(
            "Test accuracy in percent, the mean of eight tasks with 95 % t interval over seeds, "
            f"beside the paper's ({TABLE15_SOURCE}), whose ± are standard deviations over ten "
            "repetitions. Compare the differences between the methods, not the accuracies, "
            "wherever this scale is not `paper`."
        ),
        figure=_figure(cells, answers, document.setting(requests)),
        table=_table(frame, cells, memory),
        answers=answers,
        sections=(
            _values(frame, cells),
            _memory_section(cells, memory),
            document.claims(answers),
            finetuned.what_was_run(requests, frame, TABLE15_METHODS),
            finetuned.limits(
                scale, requests, answers[:2], "LLaMA2-7B, whole sets, ten repetitions"
            ),
            document.runs_behind(cells, frame),
        ),
    )


def cell_name(panel: str, value: Value) -> str:
    """What a cell is called in sentences."""
    return TABLE15_METHODS[str(value)]


def memory_answer(memory: Mapping[str, Bytes]) -> Answer:
    """Whether sparse SPAM's counted bytes are GaLore's: counting, no test."""
    parts: tuple[Part, ...] = ()
    verdict = Verdict.UNDECIDED
    if "spam_sparse" in memory and "galore" in memory:
        sparse, galore = memory["spam_sparse"].total, memory["galore"].total
        verdict = Verdict.HOLDS if abs(sparse / galore - 1) <= TOLERANCE else Verdict.FAILS
        detail = f"{_gigabytes(sparse)} and {_gigabytes(galore)} GB, ratio {sparse / galore:.3f}"
        parts = (Part("sparse SPAM takes what GaLore takes", verdict, detail),)
    test = f"counted bytes in bfloat16, ratio within {TOLERANCE:.0%} of 1: counting, without chance"
    return Answer(memory_is_comparable(TOLERANCE), verdict, test, "", parts)


def _cell(cells: Mapping[Key, Cell], value: str) -> Cell:
    return cells.get((PANEL, value), Cell(cell_name(PANEL, value)))


def _values(frame: pd.DataFrame, cells: Mapping[Key, Cell]) -> Section:
    """The paper's table twice: ours, then as printed."""
    ours, printed = [], []
    for key, cell in cells.items():
        method = str(key[1])
        each = [_task_accuracy(frame, key, task) for task in TABLE15_TASKS]
        ours.append(
            (
                TABLE15_METHODS[method],
                len(cell.losses),
                *("–" if math.isnan(value) else f"{value:.1f}" for value in each),
                f"**{finetuned.shown(accuracy(cell))}**",
                finetuned.gain(cell, cells.get((PANEL, "adam"))) if method != "adam" else "–",
                f"{finetuned.mean_of(frame, key, 'validation/loss'):.3f}",
                note(cell),
            )
        )
        gap = float(TABLE15[method][AVERAGE]) - float(TABLE15["adam"][AVERAGE])
        printed.append(
            (
                TABLE15_METHODS[method],
                *(TABLE15[method][task] for task in TABLE15_TASKS),
                f"**{TABLE15[method][AVERAGE]} ± {TABLE15_DEVIATION[method]}**",
                f"{gap:+.1f}",
            )
        )
    chance = [100 * finetuned.CHANCE[task] for task in TABLE15_TASKS]
    guess = ("guessing", "", *(f"{value:.0f}" for value in chance))
    ours.append((*guess, f"{sum(chance) / len(chance):.1f}", "", "", ""))
    names = [*TABLE15_TASKS.values(), "average", "over Adam"]
    own = document.table(["method", "n", *names, "loss of the right choice", "remarks"], ours)
    theirs = document.table(["method", *names], printed)
    return Section(
        "Accuracy, %",
        "Ours; losses are in nats a token, intervals over seeds. The accuracy of a task is a mean "
        f"over seeds.\n\n{own}\n\nAs printed, LLaMA2-7B:\n\n{theirs}",
    )


def _memory_section(cells: Mapping[Key, Cell], memory: Mapping[str, Bytes]) -> Section:
    rows = [
        (
            TABLE15_METHODS[method],
            finetuned.shown(accuracy(cell)),
            _gigabytes(count.weights),
            _gigabytes(count.state),
            f"**{_gigabytes(count.total)}**",
            _gigabytes(count.gradients),
            TABLE15_MEMORY[method],
        )
        for (_, value), cell in cells.items()
        for method in (str(value),)
        for count in (memory[method],)
    ]
    headers = ["method", "accuracy, ours, %", "weights, GB", "optimizer state"]
    headers += ["weights + state", "gradients", "running memory, paper"]
    return Section(
        "Memory",
        "Counted at LLaMA2-7B's size in bfloat16, with the methods' own code; GB are 10⁹ bytes. "
        "The paper's is running GPU memory: gradients, activations and the allocator's share "
        "included, of a batch that it does not print. Sparse SPAM here draws its masks again from "
        "a seed; the public code keeps one byte for every attention and feed-forward weight, "
        "6.5 GB. GaLore and SPAM keep full moments of the embedding and the head.\n\n"
        + document.table(headers, rows),
    )


def _table(
    frame: pd.DataFrame, cells: Mapping[Key, Cell], memory: Mapping[str, Bytes]
) -> pd.DataFrame:
    rows = []
    for key, cell in cells.items():
        method = str(key[1])
        found = finetuned.columns(frame, key, cell)
        for task in TABLE15_TASKS:
            found[f"{task}_accuracy_mean"] = _task_accuracy(frame, key, task)
            found[f"paper_{task}_accuracy"] = float(TABLE15[method][task])
        found["paper_accuracy"] = float(TABLE15[method][AVERAGE])
        found["bytes_weights_and_state"] = memory[method].total
        found["paper_gigabytes_running"] = TABLE15_MEMORY[method]
        rows.append(found)
    return pd.DataFrame(rows)


def _task_accuracy(frame: pd.DataFrame, key: Key, task: str) -> float:
    return 100 * finetuned.mean_of(frame, key, f"validation/{task}/accuracy")


def _figure(cells: Mapping[Key, Cell], answers: Sequence[Answer], setting: str) -> Figure:
    found = [cells.get((PANEL, method)) for method in TABLE15_METHODS]
    with drawing.style():
        figure = drawing.new_figure(7.4, 3.8, f"Fine-tuning on eight tasks, {setting}")
        ours, published = figure.subplots(1, 2)
        drawing.frame(
            ours,
            TICKS,
            title="Ours, average of eight tasks",
            axis="",
            footer=footer("sparse SPAM beats LoRA, GaLore", answers[0]),
        )
        finetuned.draw_ours(ours, found, TICKS, own=len(TICKS) - 1)
        if any(cell is not None and cell.losses for cell in found):
            chance = [finetuned.CHANCE[task] for task in TABLE15_TASKS]
            finetuned.draw_chance(ours, sum(chance) / len(chance))
        drawing.frame(
            published,
            TICKS,
            title="Published, LLaMA2-7B",
            axis="",
            footer=f"as printed ({TABLE15_SOURCE})",
        )
        published.set_ylabel("accuracy, %")
        values = [float(TABLE15[method][AVERAGE]) for method in TABLE15_METHODS]
        drawing.draw_values(published, values, special=len(TICKS) - 1, joined=False)
        drawing.add_legend(figure, line=False)
    return figure


def _gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.2f}"
