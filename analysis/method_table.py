"""A table of methods by models: ours beside the paper's, for every exhibit that is one.

It owns what Tables 1, 2, 3, 11 and 12 have in common: the cells with the paper's value beside each,
the values in words, and the figure, ours and the paper's in panels of their own. Perplexities of
different scales are never compared; their multiples of the reference method are, side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import document, drawing
from analysis.cell_table import Key, cell_table, note, shown_perplexity
from analysis.claims import Answer, every_pair
from analysis.document import Section
from analysis.frames import cells as cells_of
from analysis.stats import Cell, Difference, Verdict, paired_difference
from spam_lab.orchestrate.grid import Value

if TYPE_CHECKING:
    from analysis.claims import Claim
    from spam_lab.orchestrate.expand import Request

MODELS = {
    "llama_60m": "LLaMA-60M",
    "llama_130m": "LLaMA-130M",
    "llama_350m": "LLaMA-350M",
    "llama_1b": "LLaMA-1B",
}


@dataclass(frozen=True)
class Method:
    """A row: its words in text, its words under an axis, and what the paper prints by model."""

    name: str
    tick: str
    published: Mapping[str, str]


def method(name: str, tick: str, published: str) -> Method:
    """A row from the paper's line of values, in the order of `MODELS`, the first ones at least."""
    return Method(name, tick, dict(zip(MODELS, published.split(), strict=False)))


@dataclass(frozen=True)
class PublishedTable:
    """A published table.

    Attributes:
        source: where it is printed.
        methods: the rows by a cell's value.
        own: the paper's own method, marked in figures.
        reference: the method that the others are given as multiples of.
        line: whether the reference is drawn as a line, not as a point.
    """

    source: str
    methods: Mapping[str, Method]
    own: str
    reference: str
    line: bool = True

    def cell_name(self, panel: str, value: Value) -> str:
        """What a cell is called in sentences."""
        return f"{self.methods[str(value)].name} ({MODELS[panel]})"

    def cells(self, frame: pd.DataFrame) -> dict[Key, Cell]:
        """The runs by (model, method)."""
        return cells_of(frame, self.cell_name)

    def cell(self, cells: Mapping[Key, Cell], panel: str, value: str) -> Cell:
        """A cell, or one that nobody asked for."""
        return cells.get((panel, value), Cell(self.cell_name(panel, value)))

    def table(
        self, frame: pd.DataFrame, requests: Sequence[Request], cells: Mapping[Key, Cell]
    ) -> pd.DataFrame:
        """The exhibit's table, with the learning rate and the paper's value of each cell."""
        table = cell_table(frame, requests, cells, lambda request: request.config.optimizer.name)
        rates = rates_of(requests)
        table.insert(3, "learning_rate", [rates[key] for key in cells])
        ratios = [self.ratio(cells, key) for key in cells]
        columns: dict[str, list[float]] = {
            "ratio": [r.ratio if r else math.nan for r in ratios],
            "ratio_low_95": [math.exp(r.low) if r else math.nan for r in ratios],
            "ratio_high_95": [math.exp(r.high) if r else math.nan for r in ratios],
            "paper_perplexity": [float(self._printed(key)) for key in cells],
            "paper_ratio": [self._printed_ratio(key) for key in cells],
        }
        for place, (name, values) in enumerate(columns.items(), start=11):
            table.insert(place, name, values)
        return table

    def ratio(self, cells: Mapping[Key, Cell], key: Key) -> Difference | None:
        """A cell's loss against the reference's, paired by seed; None where that is no test."""
        panel, value = key
        reference, cell = cells.get((panel, self.reference)), cells[key]
        if reference is None or value == self.reference or reference.diverged or cell.diverged:
            return None
        if len(reference.losses.keys() & cell.losses.keys()) < 2:
            return None
        return paired_difference(cell.losses, reference.losses)

    def values(self, cells: Mapping[Key, Cell], requests: Sequence[Request]) -> Section:
        """Ours beside the paper's, a table for each model."""
        rates = rates_of(requests)
        against = self.methods[self.reference].name
        headers = ["method", "learning rate", "n", "perplexity, ours", f"ours ÷ {against} [95 %]"]
        blocks = []
        for model in dict.fromkeys(panel for panel, _ in cells):
            rows = []
            for key, cell in cells.items():
                if key[0] == model:
                    row = (
                        self.methods[str(key[1])].name,
                        f"{rates[key]:g}",
                        len(cell.losses),
                        shown_perplexity(cell),
                        self._shown_ratio(cells, key),
                        self._printed(key),
                        f"{self._printed_ratio(key):.3f}",
                        note(cell),
                    )
                    rows.append(row)
            columns = [*headers, "perplexity, paper", f"paper ÷ {against}", "remarks"]
            blocks.append(f"**{MODELS[model]}**\n\n{document.table(columns, rows)}")
        return Section("Values", "\n\n".join(blocks))

    def better(
        self,
        claim: Claim,
        pairs: Iterable[tuple[str, str]],
        panel: str,
        cells: Mapping[Key, Cell],
    ) -> Answer:
        """The answer to a claim on one model: the first method of every pair is the better one."""
        tested = [
            (self.cell(cells, panel, good), self.cell(cells, panel, bad)) for good, bad in pairs
        ]
        return every_pair(claim, tested, [self.cell(cells, panel, value) for value in self.methods])

    def figure(
        self,
        title: str,
        cells: Mapping[Key, Cell],
        footers: Mapping[str, str],
    ) -> Figure:
        """A row for each model: ours on the left, the paper's on the right; `footers` by model."""
        models = list(dict.fromkeys(panel for panel, _ in cells))
        shown = [value for value in self.methods if not (self.line and value == self.reference)]
        with drawing.style():
            figure = drawing.new_figure(7.4, 1.0 + 2.5 * len(models), title)
            grid = figure.subplots(len(models), 2, squeeze=False)
            for (ours, published), model in zip(grid, models, strict=True):
                points = [
                    drawing.Point(
                        self.cell(cells, model, value),
                        self.methods[value].tick,
                        is_paper_setting=value == self.own,
                        joined=False,
                    )
                    for value in shown
                ]
                drawing.frame(
                    ours,
                    [point.label for point in points],
                    title=f"Ours, {MODELS[model]}",
                    axis="",
                    footer=footers.get(model, ""),
                )
                line = self.cell(cells, model, self.reference) if self.line else None
                drawing.draw_panel(ours, points, line)
                self._draw_published(published, model, shown)
            drawing.add_legend(figure, line=self.line)
        return figure

    def _draw_published(self, axes: Axes, model: str, shown: Sequence[str]) -> None:
        drawing.frame(
            axes,
            [self.methods[value].tick for value in shown],
            title=f"Published, {MODELS[model]}",
            axis="",
            footer=f"as printed, without intervals ({self.source})",
        )
        drawing.draw_values(
            axes,
            [float(self._printed((model, value))) for value in shown],
            special=shown.index(self.own),
            line=float(self._printed((model, self.reference))) if self.line else None,
            joined=False,
        )

    def _printed(self, key: Key) -> str:
        return self.methods[str(key[1])].published[key[0]]

    def _printed_ratio(self, key: Key) -> float:
        return float(self._printed(key)) / float(self._printed((key[0], self.reference)))

    def _shown_ratio(self, cells: Mapping[Key, Cell], key: Key) -> str:
        ratio = self.ratio(cells, key)
        if ratio is None:
            return "1" if key[1] == self.reference else "–"
        return f"{ratio.ratio:.3f} [{math.exp(ratio.low):.3f}, {math.exp(ratio.high):.3f}]"


def rates_of(requests: Sequence[Request]) -> dict[Key, float]:
    """The learning rate of each cell, as run."""
    return {
        (str(request.labels["panel"]), request.labels["value"]): request.config.optimizer.lr
        for request in requests
    }


def footer(statement: str, answer: Answer) -> str:
    """A claim and its verdict in one small line."""
    held = sum(part.verdict is Verdict.HOLDS for part in answer.parts)
    failed = sum(part.verdict is Verdict.FAILS for part in answer.parts)
    counted = f"{held} of {len(answer.parts)}"
    if failed:
        counted += f", {failed} the other way"
    return f"“{statement}”: {answer.verdict} ({counted})"
