"""The plan of several sweeps as a table: what each asks for, what it shares with the others, what
is left of it and what that costs. A sweep's cost is that of the sweep alone, so the costs add up
to more than the whole where runs are shared; the table says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich.table import Table

from spam_lab.orchestrate.cost import Price, total
from spam_lab.orchestrate.plan import Plan

SHARED = (
    "A run that several sweeps ask for is trained once: each sweep's cost is its cost alone, and "
    "the line below counts every run once."
)


def sweeps_table(plan: Plan, prices: Mapping[str, Price]) -> Table:
    """One row a sweep, in the plan's order."""
    serving = Counter(run_id for part in plan.parts for run_id in part.run_ids)
    due = {entry.run_id: entry for entry in plan.due}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("sweep", no_wrap=True)
    for name in ("runs", "shared", "to do", "steps", "hours here", "H100-hours"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("question")
    for part in plan.parts:
        left = [run_id for run_id in part.run_ids if run_id in due]
        cost = total(prices[run_id] for run_id in left)
        table.add_row(
            part.name,
            str(len(part.run_ids)),
            str(sum(serving[run_id] > 1 for run_id in part.run_ids)),
            str(len(left)),
            f"{sum(due[run_id].steps_left for run_id in left):,}",
            _hours(None if cost.seconds is None else cost.seconds / 3600),
            _hours(cost.h100_hours),
            part.description,
        )
    return table


def _hours(hours: float | None) -> str:
    """Hours with two significant digits where they are few; a dash where they are not known."""
    if hours is None:
        return "–"
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
