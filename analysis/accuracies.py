"""Accuracies and errors of classifiers over seeds: means in percent, and paired differences.

What is recorded and tested is the error, in [0, 1], because statistics here take the smaller value
for the better one; what is shown is the accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping

from analysis.cell_table import Key
from analysis.curves import Curve
from analysis.stats import Cell, Difference, Estimate, mean_interval, paired_difference

Curves = Mapping[Key, Curve]
"""(panel, method) -> step -> errors by seed."""


def accuracy(cell: Cell | None) -> Estimate | None:
    """The mean accuracy in percent of a cell of errors; None without a whole result."""
    if cell is None or not cell.losses or cell.diverged:
        return None
    return mean_interval([100 * (1 - error) for _, error in sorted(cell.losses.items())])


def difference(one: Cell | None, other: Cell | None) -> Difference | None:
    """The paired difference in error; None without two common seeds."""
    if one is None or other is None or len(one.losses.keys() & other.losses.keys()) < 2:
        return None
    return paired_difference(one.losses, other.losses)


def evaluation_at(curves: Curves, panel: str, fraction: float, steps: int) -> int:
    """The evaluation nearest to a fraction of training, the earlier of two; 0 without any."""
    known = {step for key, curve in curves.items() if key[0] == panel for step in curve}
    return min(known, key=lambda step: (abs(step - fraction * steps), step), default=0)
