"""The words around an exhibit: Markdown sections that every exhibit has, made from the record.

What was run, how the paper's intervals were mapped, the claims with their verdicts and tests, what
this scale can and cannot decide, and which runs stand behind each cell.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.cell_table import note
from analysis.claims import Answer
from analysis.frames import rows_of
from analysis.stats import Cell
from spam_lab.config.schema import ModelConfig, ScaleConfig

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request


EFFECT = (
    "d_z is the size of an effect: the mean of the paired differences in loss over their standard "
    "deviation, corrected for few seeds (Hedges). It has no interval, and from three seeds it is "
    "known only roughly."
)

NOT_TESTED = "No comparison could be tested."

PAPERS_CLAIMS = "The paper's claims"
OWN_CLAIMS = "The laboratory's own questions"


@dataclass(frozen=True)
class Section:
    """A heading and the Markdown under it."""

    heading: str
    body: str


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""

    def line(values: Sequence[Any]) -> str:
        return "| " + " | ".join(str(value).replace("|", "\\|") for value in values) + " |"

    return "\n".join([line(headers), line(["---"] * len(headers)), *(line(row) for row in rows)])


def claims(answers: Sequence[Answer]) -> Section:
    """Every claim with its verdict, its test and all comparisons behind it.

    The heading says whether the claims are the paper's or this laboratory's own questions.
    """
    summary = table(
        ["claim", "verdict", "where the best lies"],
        [(a.claim.text, f"**{a.verdict}**", a.detail or "–") for a in answers],
    )
    blocks = [summary, EFFECT] if any(answer.comparisons for answer in answers) else [summary]
    for answer in answers:
        parts = table(
            ["comparison", "verdict", "numbers"],
            [(part.text, part.verdict, part.detail) for part in answer.parts],
        )
        blocks.append(
            f"**{answer.claim.text}: {answer.verdict}.** {answer.claim.source}.\n\n"
            f"Test: {answer.test}.\n\n{parts}"
        )
    own = bool(answers) and all(answer.claim.own for answer in answers)
    return Section(OWN_CLAIMS if own else PAPERS_CLAIMS, "\n\n".join(blocks))


def setting(requests: Sequence[Request]) -> str:
    """The scale and the number of seeds, for a figure's title."""
    seeds = len({request.seed for request in requests})
    return f"scale {requests[0].config.scale.name}, {seeds} seed{'s' * (seeds > 1)}"


def what_was_run(requests: Sequence[Request], frame: pd.DataFrame) -> Section:
    """Models, lengths, seeds and how many runs there are in which state."""
    scale = requests[0].config.scale
    seeds = sorted({request.seed for request in requests})
    runs = frame.drop_duplicates("run_id")
    states = ", ".join(
        f"{count} {state}" for state, count in sorted(Counter(runs["state"]).items())
    )
    configs = {request.config.model.name: request.config for request in requests}
    counts = Counter({r.run_id: r.config.model.name for r in requests}.values())
    models = table(
        ["model", "parameters", "shape", "steps", "tokens a step", "runs"],
        [
            (
                name,
                _shown_count(parameters(config.model, config.data.sequence_length)),
                f"{config.model.num_hidden_layers} layers, width {config.model.hidden_size}, "
                f"vocabulary {config.model.vocab_size}",
                f"{config.schedule.steps:,}",
                f"{config.data.batch_size * config.data.sequence_length:,}",
                counts[name],
            )
            for name, config in configs.items()
        ],
    )
    data = ", ".join(sorted({request.config.data.name for request in requests}))
    precision = ", ".join(sorted({request.config.precision.name for request in requests}))
    spared = len(requests) - len(runs)
    shared = f"; cells that coincide share theirs, which spares {spared}" if spared else ""
    return Section(
        "What was run",
        f"Scale `{scale.name}`, seeds {', '.join(map(str, seeds))}, data `{data}`, precision "
        f"`{precision}`. {len(runs)} runs ({states}){shared}.\n\n{models}",
    )


def limits(scale: ScaleConfig, answers: Sequence[Answer], reaches: str) -> Section:
    """What this scale can and cannot decide: distance from the paper, and the power of the tests.

    `reaches` says what the exhibit's own question needs that the scale may lack.
    """
    differing = [
        f"{name} × {value:g}" if name == "lr" else f"{name} ÷ {value:g}"
        for name, value in _factors(scale).items()
        if value != 1
    ]
    if differing:
        opening = (
            f"Scale `{scale.name}` is not the paper's setting ({', '.join(differing)}). A verdict "
            f"here is about this scale; it neither confirms nor refutes the paper. {reaches}"
        )
    else:
        opening = f"Scale `{scale.name}` is the paper's setting."
    widths = [
        (difference.high - difference.low) / 2
        for answer in answers
        for comparison in answer.comparisons
        if (difference := comparison.difference) is not None
    ]
    if not widths:
        return Section("What this scale can decide", f"{opening} {NOT_TESTED}")
    half = median(widths)
    return Section(
        "What this scale can decide",
        f"{opening} The interval of a paired difference is here ± {half:.4f} in loss (median over "
        f"{len(widths)} comparisons): two cells whose perplexities differ by less than about "
        f"{100 * (math.exp(half) - 1):.2f} % are not told apart, before correction for several "
        "comparisons.",
    )


def runs_behind(cells: Mapping[Any, Cell], frame: pd.DataFrame) -> Section:
    """Every cell with its runs: seed, run_id, and loss or state."""
    rows = []
    for (panel, value), cell in cells.items():
        # None is a label too (no clipping), and never equals itself in a pandas comparison.
        of_cell = [row for row in rows_of(frame) if row["panel"] == panel and row["value"] == value]
        runs = "; ".join(
            f"{row['seed']}: `{row['run_id']}` "
            + (f"{row['loss']:.4f}" if row["state"] == "done" else str(row["state"]))
            for row in of_cell
        )
        rows.append((panel, cell.name, f"`{cell.cell_id}`", runs, note(cell) or "complete"))
    return Section(
        "The runs behind each cell",
        table(["panel", "cell", "cell_id", "seed: run_id, loss", "state"], rows),
    )


def parameters(model: ModelConfig, sequence_length: int) -> int | None:
    """How many weights a model has, by arithmetic; None for families this does not know.

    LLaMA; GPT-NeoX with its biases; OPT with its biases and as many positions as a sequence has.
    """
    if model.family not in ("llama", "gpt_neox", "opt") or "num_key_value_heads" in (
        model.architecture
    ):
        return None
    width, inner = model.hidden_size, model.intermediate_size
    tied = model.architecture.get("tie_word_embeddings", model.family == "opt")
    outside = (1 if tied else 2) * model.vocab_size * width
    if model.family == "llama":
        block, last = 4 * width**2 + 3 * width * inner + 2 * width, width
    else:
        biases = 4 * width + inner + width
        block, last = 4 * width**2 + 2 * width * inner + biases + 4 * width, 2 * width
    if model.family == "opt":
        outside += (sequence_length + 2) * width
    return model.num_hidden_layers * block + last + outside


def _factors(scale: ScaleConfig) -> dict[str, float]:
    names = ("width", "heads", "depth", "vocabulary", "run_length", "interval", "lr")
    values = dataclasses.asdict(scale)
    return {name: values[name] for name in names}


def _shown_count(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"
