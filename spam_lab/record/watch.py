"""Syncing again and again while runs run: the live record.

It promises to go on whatever becomes of the store (a server that is away for an hour costs
nothing: run directories wait, and the next sync has everything), to say once when the store is gone
and once when it is back, and to leave the store alone while no run directory has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from spam_lab.record.mlflow_store import RefusedError, TrackingError, masked
from spam_lab.record.store import StoreError
from spam_lab.record.tracking import Progress, SyncReport, sync

_LONGEST_PAUSE = 240.0
"""Between two attempts at a store that is gone, in seconds."""

_RECORDED_FROM = ("config.json", "status.json", "provenance.json")
"""Files whose change makes a run worth recording again; the status changes with the metrics."""

Stamps = dict[str, tuple[int, int, int]]


class Watch:
    """Keeps the record of `runs_root` up to date, looking every `seconds`.

    `tell` is told, in words, what was recorded and what is wrong; `report` is that of the last sync
    that went through.
    """

    def __init__(
        self,
        runs_root: Path,
        tracking_uri: str,
        seconds: float,
        tell: Progress,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.report: SyncReport | None = None
        self._root = runs_root
        self._uri = tracking_uri
        self._seconds = seconds
        self._tell = tell
        self._sleep = sleep
        self._failures = 0
        self._problems: set[str] = set()

    def until_all_have_ended(self) -> SyncReport:
        """Sync until there are runs and each has ended; the last sync's report.

        Raises:
            RefusedError: the first sync was refused; afterwards, that too is waited out.
        """
        seen: Stamps | None = None
        while True:
            started = time.monotonic()
            stamps = _stamps(self._root)
            if stamps != seen and self._sync():
                seen = stamps
            report = self.report
            if report and seen == stamps and report.states.total() and not report.unfinished:
                return report
            # A record so large that a sync takes longer than the pause must not fill all the time.
            self._sleep(max(self._pause(), time.monotonic() - started))

    def _pause(self) -> float:
        longer = self._seconds * 2.0 ** min(self._failures - 1, 30) if self._failures else 0.0
        return max(self._seconds, min(longer, _LONGEST_PAUSE))

    def _sync(self) -> bool:
        """Sync once; whether it went through."""
        try:
            report = sync(self._root, self._uri, progress=self._tell)
        except RefusedError as error:
            if self.report is None:
                raise
            self._fail(str(error))
        except (TrackingError, StoreError) as error:
            self._fail(str(error))
        except Exception as error:
            # A server that dies can answer anything; whatever it was, the next sync finds out.
            self._fail(masked(f"a sync failed unexpectedly: {error!r}.", self._uri))
        else:
            self._succeed(report)
            return True
        return False

    def _fail(self, reason: str) -> None:
        if not self._failures:
            self._tell(f"{reason} It is tried again until it works; nothing is lost.")
        self._failures += 1

    def _succeed(self, report: SyncReport) -> None:
        if self._failures:
            self._tell(f"the record at {report.store} can be used again")
        self._failures = 0
        is_first, self.report = self.report is None, report  # first: a Ctrl-C may come at any word
        if report.new or report.updated or is_first:
            self._tell(f"{report.new} new, {report.updated} updated, {report.unchanged} unchanged")
        for problem in report.problems:
            if problem not in self._problems:
                self._tell(f"left out: {problem}")
        self._problems = set(report.problems)


def _stamps(root: Path) -> Stamps:
    """What tells that something to record has changed, from the file system alone."""
    stamps: Stamps = {}
    try:
        folders = [path for path in root.iterdir() if path.name != "sweeps"]
        manifests = list((root / "sweeps").glob("*.json"))
    except OSError:  # the sync says what is wrong with the folder
        return stamps
    for path in [*(folder / name for folder in folders for name in _RECORDED_FROM), *manifests]:
        try:
            found = path.stat()
        except OSError:
            continue
        stamps[str(path)] = (found.st_mtime_ns, found.st_ino, found.st_size)
    return stamps
