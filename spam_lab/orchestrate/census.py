"""What the runs of a plan are doing right now, read from their directories.

Reading only; a status file is read again only when it changed, so that a census of thousands of
runs stays cheap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spam_lab.orchestrate.lease import is_live
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, Status


@dataclass
class Census:
    """The status of each run of `run_ids`, kept up to date by `refresh`."""

    root: Path
    run_ids: Sequence[str]
    statuses: dict[str, Status] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)

    def refresh(self) -> None:
        """Read again what changed."""
        for run_id in self.run_ids:
            path = self.root / run_id / "status.json"
            try:
                stamp = path.stat().st_mtime_ns
            except FileNotFoundError:
                self.statuses[run_id] = Status()
                continue
            if self._seen.get(run_id) != stamp:
                self.statuses[run_id] = RunDirectory(self.root, run_id).status()
                self._seen[run_id] = stamp

    def counts(self) -> Counter[State]:
        """How many runs are in each state."""
        return Counter(status.state for status in self.statuses.values())

    def running(self) -> list[tuple[str, Status]]:
        """The runs that are being trained, by run_id."""
        return [(i, s) for i, s in self.statuses.items() if s.state is State.RUNNING]

    def lost(self) -> list[str]:
        """Runs marked as running that no live worker holds."""
        return [
            run_id
            for run_id, _ in self.running()
            if not is_live(RunDirectory(self.root, run_id).lease_path)
        ]

    def ended_badly(self) -> list[tuple[str, Status]]:
        """Runs that failed or diverged, with their reasons."""
        bad = (State.FAILED, State.DIVERGED)
        return [(i, s) for i, s in self.statuses.items() if s.state in bad]
