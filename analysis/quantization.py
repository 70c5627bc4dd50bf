"""Training in 4 and in 8 bits: Adam, SPAM and Stable-SPAM beside their own full precision.

SPAM names the question and prints no number; the exhibit says so, and answers what SPAM and
Stable-SPAM claim from this laboratory's runs alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from analysis import document, quantization_figure
from analysis.cell_table import Key, cell_table, note, shown_perplexity
from analysis.document import Section
from analysis.exhibit import Exhibit
from analysis.frames import cells as cells_of
from analysis.method_table import MODELS, rates_of
from analysis.paper_quantization import answers
from analysis.stats import Cell, Difference, compare
from spam_lab.config.schema import ScaleConfig
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

METHODS = {"adam": "Adam", "spam": "SPAM", "stable_spam": "Stable-SPAM"}
BITS = {"full": "full precision", "a8w8": "A8W8", "a4w4": "A4W4"}
TICKS = {**BITS, "full": "full"}
SIZES = ("llama_60m", "llama_130m")
USUAL, HIGH = "llama_60m", "x4"
PANELS = {
    **{size: MODELS[size] for size in SIZES},
    HIGH: f"{MODELS[USUAL]}, 4 × the rate",
}


def build(frame: pd.DataFrame, requests: Sequence[Request], scale: ScaleConfig) -> Exhibit:
    """The exhibit from the runs of the sweep `quantization`."""
    cells = cells_of(frame, cell_name)

    def cell(panel: str, method: str, bits: str) -> Cell:
        value = f"{method}/{bits}"
        return cells.get((panel, value), Cell(cell_name(panel, value)))

    found = answers(cell, SIZES, USUAL, HIGH)
    table = _with_ratios(cell_table(frame, requests, cells, _as_run), cells)
    panels = {
        words: {
            method: {
                short: cells[panel, f"{method}/{bits}"]
                for bits, short in TICKS.items()
                if (panel, f"{method}/{bits}") in cells
            }
            for method in METHODS
        }
        for panel, words in PANELS.items()
    }
    return Exhibit(
        name="quantization",
        title=f"Training in few bits at scale {scale.name}: Adam, SPAM and Stable-SPAM",
        summary=(
            "Mean validation perplexity with 95 % t interval over seeds, in full precision, with "
            "weights and activations of 8 bits (A8W8) and of 4 (A4W4). SPAM's paper claims that "
            "it helps in 4 bits and prints no number, so none stands beside ours."
        ),
        figure=quantization_figure.figure(
            f"Training in few bits, {document.setting(requests)}",
            panels,
            METHODS,
        ),
        table=table,
        answers=found,
        sections=(
            _values(cells, requests),
            document.claims(found),
            _reading(requests),
            document.what_was_run(requests, frame),
            document.limits(
                scale,
                found,
                "What few bits cost grows with the length of training and with the outliers of "
                "wide layers; neither is here.",
            ),
            document.runs_behind(cells, frame),
        ),
    )


def cell_name(panel: str, value: Value) -> str:
    """What a cell is called in sentences."""
    method, _, bits = str(value).partition("/")
    return f"{METHODS[method]}, {BITS[bits]} ({PANELS[panel]})"


def _as_run(request: Request) -> str:
    config = request.config
    return f"{config.optimizer.name}, lr {config.optimizer.lr:g}, {config.precision.formats}"


def _ratio(cells: Mapping[Key, Cell], key: Key, other: str) -> Difference | None:
    """A cell's loss against another's of its panel, paired by seed; None where that is no test."""
    reference = cells.get((key[0], other))
    if reference is None or other == key[1]:
        return None
    return compare(cells[key], reference).difference


def _against(value: Value) -> tuple[str, str]:
    """The two cells that one is given as multiples of: its own full precision, and Adam's."""
    method, _, bits = str(value).partition("/")
    return f"{method}/full", f"adam/{bits}"


def _with_ratios(table: pd.DataFrame, cells: Mapping[Key, Cell]) -> pd.DataFrame:
    for place, name in enumerate(("ratio_to_full_precision", "ratio_to_adam")):
        found = [_ratio(cells, key, _against(key[1])[place]) for key in cells]
        table[name] = [r.ratio if r else math.nan for r in found]
        table[f"{name}_low_95"] = [math.exp(r.low) if r else math.nan for r in found]
        table[f"{name}_high_95"] = [math.exp(r.high) if r else math.nan for r in found]
    return table


def _values(cells: Mapping[Key, Cell], requests: Sequence[Request]) -> Section:
    rates = rates_of(requests)
    formats = {_key(request): request.config.precision.formats for request in requests}
    blocks = []
    for panel, words in PANELS.items():
        rows = [
            (
                METHODS[str(key[1]).partition("/")[0]],
                formats[key],
                f"{rates[key]:g}",
                len(cell.losses),
                shown_perplexity(cell),
                *(_shown(cells, key, other) for other in _against(key[1])),
                note(cell),
            )
            for key, cell in cells.items()
            if key[0] == panel
        ]
        headers = ["method", "precision", "learning rate", "n", "perplexity"]
        headers += ["÷ its own full precision [95 %]", "÷ Adam in the same [95 %]", "remarks"]
        blocks.append(f"**{words}**\n\n{document.table(headers, rows)}")
    return Section("Values", "\n\n".join(blocks))


def _key(request: Request) -> Key:
    return str(request.labels["panel"]), request.labels["value"]


def _shown(cells: Mapping[Key, Cell], key: Key, other: str) -> str:
    ratio = _ratio(cells, key, other)
    if ratio is None:
        return "1" if other == key[1] else "–"
    return f"{ratio.ratio:.4f} [{math.exp(ratio.low):.4f}, {math.exp(ratio.high):.4f}]"


def _reading(requests: Sequence[Request]) -> Section:
    """How few bits were read, beside the published code of Stable-SPAM."""
    formats = sorted({request.config.precision.weights for request in requests})
    return Section(
        "How few bits were read",
        "SPAM's paper does not say how it quantises, and its code for it (“QAT (A4W4 and A8W8)”) "
        "was never released. Here the linear layers of attention and feed-forward compute with "
        "rounded factors in every forward pass, that of validation too: weights with a scale for "
        "each output channel, activations with one for each token, both symmetric, taken from the "
        "largest absolute value and rounded to the nearest of 2^b − 1 levels; gradients pass "
        "straight through. What the optimizer trains, its states, norms, embeddings and head keep "
        f"their format ({', '.join(formats)}). It is a simulation: products are computed in that "
        "format, so it says what rounding does to training, and nothing of speed or memory.\n\n"
        "The released code of Stable-SPAM quantises the same layers, in bfloat16, otherwise: by "
        "its defaults, weights between their smallest and largest value in groups of 256, and "
        "activations in groups of which the two largest entries are kept as they are. The grid "
        "here is the coarser one, and so the harder test at equal bits.\n\n"
        "What four times the rate adds to the loss is worked out within each seed, and compared "
        "between precisions and between methods. It is below zero where the usual rate was too "
        "low for runs of this length.",
    )
