"""What severity does to SPAM's advantage: paired differences, their slope, and the two claims of
Figure 7 as tests.

An advantage is loss(SPAM) - loss(Adam) of the same seed, the same anomalies and the same severity;
below zero SPAM is better. Its slope over severity is worked out within each seed, by least squares
over all severities, so that what a seed adds to all of them drops out; the t interval is over the
seeds' slopes. A seed of which any run is missing or diverged has no slope, and leaves the claim
undecided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.cell_table import Key
from analysis.claims import Answer, Claim, Part
from analysis.stats import Cell, Comparison, all_of, compare, corrected

ADAM, SPAM = "adam", "spam"

SOURCE = "Figure 7 and Appendix G, Experiments on time series data"
GROWS = Claim(
    "figure7_grows",
    "the more severe the anomalies, the larger SPAM's advantage over Adam",
    f"{SOURCE}: as the severity of anomalous data increases, SPAM's performance advantage over "
    "Adam becomes more pronounced (drawn, no values printed)",
)
AHEAD = Claim(
    "figure7_ahead",
    "under anomalies of every severity SPAM has the lower test loss",
    f"{SOURCE}: SPAM has a performance advantage over Adam (drawn, no values printed)",
)


def pair(cells: Mapping[Key, Cell], severity: float) -> tuple[Cell, Cell]:
    """The cells of SPAM and of Adam at a severity; one that nobody asked for is empty."""
    first, second = (
        cells.get((name, severity), Cell(cell_name(name, severity))) for name in (SPAM, ADAM)
    )
    return first, second


def cell_name(optimizer: str, severity: object) -> str:
    """What a cell is called in sentences."""
    return f"{'SPAM' if optimizer == SPAM else 'Adam'} at severity {severity}"


def slope(name: str, cells: Mapping[float, Cell]) -> Cell:
    """The least-squares slope of the loss over severity within each seed, as one cell.

    Raises:
        ValueError: fewer than two severities.
    """
    if len(cells) < 2:
        raise ValueError("a slope needs two severities")
    centre = sum(cells) / len(cells)
    squares = sum((severity - centre) ** 2 for severity in cells)
    seeds = {s for c in cells.values() for s in (*c.losses, *c.diverged, *c.incomplete)}
    incomplete, slopes = {}, {}
    for seed in sorted(seeds):
        gaps = [_fate(cell, seed) for cell in cells.values() if seed not in cell.losses]
        if gaps:
            incomplete[seed] = gaps[0]
        else:
            slopes[seed] = sum(
                (severity - centre) * cell.losses[seed] / squares
                for severity, cell in cells.items()
            )
    return Cell(name, "", slopes, frozenset(), incomplete)


def grows(cells: Mapping[Key, Cell], severities: Sequence[float]) -> Answer:
    """Whether the slope of the advantage over severity lies below zero."""
    sides = [
        slope(
            f"{name}'s loss",
            {severity: pair(cells, severity)[side] for severity in severities},
        )
        for side, name in enumerate(("SPAM", "Adam"))
    ]
    test = compare(*sides)
    part = _part("the slope of SPAM's loss over severity is below Adam's", test, " a unit severity")
    return Answer(
        GROWS,
        test.verdict,
        "t test on the slope of loss(SPAM) - loss(Adam) over severity, by least squares within "
        "each seed; two-sided 95 %. Holds if the interval lies below zero, fails if above",
        "",
        (part,),
        tested=(test,),
        is_ratio=False,
    )


def ahead(cells: Mapping[Key, Cell], severities: Sequence[float]) -> Answer:
    """Whether SPAM's loss is below Adam's at every severity above 0."""
    tested = corrected([compare(*pair(cells, s)) for s in severities if s > 0])
    return Answer(
        AHEAD,
        all_of([test.verdict for test in tested]),
        f"paired t test on the loss over common seeds, two-sided 95 %, Holm over {len(tested)} "
        "comparisons; holds if every one holds, fails if any fails",
        "",
        tuple(
            _part(f"{test.better.name} is better than Adam", test, "", len(tested) > 1)
            for test in tested
        ),
        tested=tuple(tested),
    )


def shown(test: Comparison) -> str:
    """The difference with its interval, or why there is none."""
    found = test.difference
    if found is None:
        return test.reason
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def _part(text: str, test: Comparison, unit: str, holm: bool = False) -> Part:
    found = test.difference
    if found is None:
        return Part(text, test.verdict, test.reason)
    detail = f"difference in loss {shown(test)}{unit}, d_z {found.effect:+.2f}, n={found.n}, "
    return Part(
        text,
        test.verdict,
        f"{detail}p={found.p:.4f}" + (f", Holm p={test.adjusted_p:.4f}" if holm else ""),
    )


def _fate(cell: Cell, seed: int) -> str:
    return "diverged" if seed in cell.diverged else cell.incomplete.get(seed, "missing")
