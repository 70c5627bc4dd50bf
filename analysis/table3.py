"""Table 3: perplexity and memory of memory-efficient methods on four sizes of LLaMA (Section 4).

Memory stands three times: as this scale's runs take it, as the same methods take it at the paper's
size in bfloat16, both counted, and as the paper estimates it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import document, learning_rates, paper
from analysis.cell_table import Key
from analysis.claims import Answer, Part
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.kept import kept
from analysis.measured_memory import Bytes, at_paper_size, measured
from analysis.method_table import MODELS, footer
from analysis.paper_table3 import TABLE3, memory_matches, sparse_is_best
from analysis.stats import Verdict, all_of
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.expand import load_sweep
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

EFFICIENT = ("relora", "lora", "galore")
TOLERANCE = 0.01
GIGABYTE = 1e9


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `table3`."""
    cells = TABLE3.cells(frame)
    models = list(dict.fromkeys(panel for panel, _ in cells))
    beats = [
        TABLE3.better(
            sparse_is_best(model), [("spam_sparse", value) for value in EFFICIENT], model, cells
        )
        for model in models
    ]
    with kept(Path(frame["root"].iloc[0]), "memory") as known:
        as_run = {
            (str(request.labels["panel"]), request.labels["value"]): measured(request.config, known)
            for request in requests
            if request.seed == requests[0].seed
        }
        full = paper_accounts(as_run, known)
    answers = (*beats, memory_answer(full))
    table = TABLE3.table(frame, requests, cells)
    for name, values in _columns(cells, as_run, full).items():
        table.insert(len(table.columns) - 3, name, values)
    statement = "SPAM beats the other three"
    return Exhibit(
        name="table3",
        title=f"Table 3 at scale {scale.name}: memory-efficient methods",
        summary=(
            "Mean validation perplexity with 95 % t interval over seeds and counted memory, beside "
            f"the values that the paper publishes ({TABLE3.source}). Compare the multiples of "
            "Adam, not the perplexities, wherever this scale is not `paper`."
        ),
        figure=TABLE3.figure(
            f"Memory-efficient methods, {document.setting(requests)}, and as published",
            cells,
            {model: footer(statement, answer) for model, answer in zip(models, beats, strict=True)},
        ),
        table=table,
        answers=answers,
        sections=(
            TABLE3.values(cells, requests),
            _memory_section(as_run, full),
            document.claims(answers),
            learning_rates.section(requests, TABLE3.cell_name),
            document.what_was_run(requests, frame),
            document.limits(
                scale,
                beats,
                "GaLore, LoRA and ReLoRA train the embedding at a rate of their own, which decides "
                "much where the embedding is most of a small model's work; their rates are not "
                "tuned. The paper takes its baselines from GaLore's paper, with other warm-ups and "
                "lengths.",
            ),
            document.runs_behind(cells, frame),
        ),
    )


def paper_accounts(wanted: Collection[Key], known: dict[str, Any]) -> dict[Key, Bytes]:
    """The account of these cells of the sweep at the paper's size in bfloat16; seconds each, where
    it is not in `known`."""
    overrides: dict[Key, Mapping[str, Value]] = {
        (str(cell.labels["panel"]), cell.labels["value"]): cell.overrides
        for cell in load_sweep("table3").cells
    }
    return {key: at_paper_size(overrides[key], known) for key in overrides if key in wanted}


def memory_answer(full: Mapping[Key, Bytes]) -> Answer:
    """Whether sparse SPAM's counted bytes at the paper's size are GaLore's: counting, no test."""
    parts = []
    for (model, value), account in full.items():
        galore = full.get((model, "galore"))
        if value != "spam_sparse" or galore is None:
            continue
        ratio = account.total / galore.total
        matches = abs(ratio - 1) <= TOLERANCE
        parts.append(
            Part(
                f"sparse SPAM takes what GaLore takes ({MODELS[model]})",
                Verdict.HOLDS if matches else Verdict.FAILS,
                f"{_gigabytes(account.total)} and {_gigabytes(galore.total)} GB, ratio "
                f"{ratio:.4f}; with the public code's mask {_gigabytes(account.total)} + "
                f"{_gigabytes(account.mask)} GB, ratio "
                f"{(account.total + account.mask) / galore.total:.4f}",
            )
        )
    return Answer(
        memory_matches(TOLERANCE),
        all_of([part.verdict for part in parts]),
        f"counted bytes at the paper's size in bfloat16, ratio within {TOLERANCE:.0%} of 1: "
        "counting, without chance; holds if every size holds, fails if any fails",
        "",
        tuple(parts),
    )


def _columns(
    cells: Mapping[Key, object], as_run: Mapping[Key, Bytes], full: Mapping[Key, Bytes]
) -> dict[str, list[object]]:
    """Memory for the table, a row each cell."""
    return {
        "bytes_as_run": [as_run[key].total for key in cells],
        "bytes_paper_size": [full[key].total for key in cells],
        "bytes_paper_size_public_mask": [full[key].mask for key in cells],
        "paper_gigabytes": [float(paper.TABLE3_MEMORY[str(v)][m]) for m, v in cells],
    }


def _memory_section(as_run: Mapping[Key, Bytes], full: Mapping[Key, Bytes]) -> Section:
    rows = []
    for (model, value), account in full.items():
        printed = paper.TABLE3_MEMORY[str(value)][model]
        rows.append(
            (
                MODELS[model],
                TABLE3.methods[str(value)].name,
                f"{as_run[model, value].total / 1e6:.2f}",
                _gigabytes(account.weights),
                _gigabytes(account.moments),
                _gigabytes(account.projectors + account.other),
                f"**{_gigabytes(account.total)}**",
                printed,
                f"{100 * (account.total / GIGABYTE / float(printed) - 1):+.0f} %",
                _gigabytes(account.total + account.mask) if account.mask else "–",
            )
        )
    headers = ["model", "method", "as run, MB", "weights, GB", "moments", "other state"]
    headers += ["total, GB", "paper, GB", "ours to paper's", "with the public code's mask, GB"]
    return Section(
        "Memory",
        "Weights and optimizer state, counted: first of the runs above, at their size and "
        "precision, then of the same methods at the paper's size in bfloat16. GB are 10⁹ bytes. "
        "The paper's estimates are GaLore's table: its full-rank column mixes units, its own "
        "formula gives 6 to 17 % more than it prints, and 0.26, 0.54 and 1.08 for LoRA are its "
        "row for another method. Sparse SPAM here draws its random masks again from a seed and "
        "keeps none; the public code keeps one byte for each attention and feed-forward weight, "
        "which the paper does not count (last column). LoRA's and ReLoRA's weights include the "
        "frozen ones.\n\n" + document.table(headers, rows),
    )


def _gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.3f}"
