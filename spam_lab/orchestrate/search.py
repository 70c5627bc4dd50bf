"""Studies as code: what is searched, over which ranges, and what stays fixed.

A file in `sweeps/` with a function `study() -> Study` is a study; `conf/study/` has the budget. A
range that is left out is the one that the schema declares for the key. What a trial trains is a run
like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spam_lab.orchestrate.grid import Value

LOSS = "validation/loss"
STATE_BYTES = "state_bytes"
OBJECTIVES = (LOSS, STATE_BYTES)
"""What can be minimised: the last validation loss in nats a token, and the optimizer's state."""


@dataclass(frozen=True)
class Search:
    """One hyperparameter and where to look for it.

    Attributes:
        key: a config key, or a config group to choose from.
        low, high: ends of a range, both included; None takes the schema's. Text is an
            interpolation, `${scaled:interval,500}`, with the paper's number.
        log: look on a logarithmic scale.
        choices: these values and no others, instead of a range.
        when: only where hyperparameters before this one have these values.
    """

    key: str
    low: float | str | None = None
    high: float | str | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()
    when: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A search that answers one question.

    Attributes:
        name: that of its file and of its budget in `conf/study/`.
        description: one sentence: the question.
        space: what is searched, in order.
        fixed: what is not.
        seed: of every trial; one that no sweep uses, so that nothing is tuned on what it is
            judged by.
        objectives: what is minimised, of `OBJECTIVES`; two give a Pareto front.
        paper: the paper's own setting of the searched keys, which exhibits mark.
        winners_by: a searched key, for each of whose values the best of the others is kept as
            overrides for sweeps; empty keeps the best of all.
    """

    name: str
    description: str
    space: tuple[Search, ...]
    fixed: Mapping[str, Value] = field(default_factory=dict)
    seed: int = 100
    objectives: tuple[str, ...] = (LOSS,)
    paper: Mapping[str, Value] = field(default_factory=dict)
    winners_by: str = ""
