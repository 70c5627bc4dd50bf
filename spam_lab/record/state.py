"""The state table of a run: the states it can be in and the moves between them.

    planned -> submitted -> running -> done | diverged | failed
    running -> preempted | timed_out -> submitted

`done` and `diverged` are results and final. `failed` is not a result: it may be submitted again.
A run whose worker vanished stays `running` on disk; that nobody holds its lease tells it is lost,
and claiming it moves it through `submitted`.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a run stands."""

    PLANNED = "planned"
    SUBMITTED = "submitted"
    RUNNING = "running"
    DONE = "done"
    DIVERGED = "diverged"
    FAILED = "failed"
    PREEMPTED = "preempted"
    TIMED_OUT = "timed_out"

    @property
    def is_result(self) -> bool:
        """Whether the run has ended with a result and is never run again."""
        return self in (State.DONE, State.DIVERGED)

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended, with a result or in failure."""
        return self.is_result or self is State.FAILED


MOVES: dict[State, frozenset[State]] = {
    State.PLANNED: frozenset({State.SUBMITTED}),
    State.SUBMITTED: frozenset({State.SUBMITTED, State.RUNNING, State.FAILED}),
    State.RUNNING: frozenset(
        {State.RUNNING, State.PREEMPTED, State.TIMED_OUT, State.SUBMITTED}
        | {state for state in State if state.has_ended}
    ),
    State.PREEMPTED: frozenset({State.SUBMITTED}),
    State.TIMED_OUT: frozenset({State.SUBMITTED}),
    State.FAILED: frozenset({State.SUBMITTED}),
    State.DONE: frozenset(),
    State.DIVERGED: frozenset(),
}
"""From each state, the states a run may move to. `running -> submitted` is a lost run reclaimed."""


class StateError(RuntimeError):
    """A move that the state table does not have."""


def require_move(run_id: str, old: State, new: State) -> None:
    """Refuse a move that is not in the table."""
    if new not in MOVES[old]:
        raise StateError(f"run {run_id} cannot go from {old} to {new}")
