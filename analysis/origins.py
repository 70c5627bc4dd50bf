"""Where the numbers of a report come from: commits, versions and machines of the runs behind it.

Commit, host and end are the record's; versions, Python and processors are those of each run's last
attempt, where its directory is at hand. Everything is counted in runs, so that a mixture shows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spam_lab.record.entries import COMMIT, PREFIX
from spam_lab.record.store import RunDirectory

if TYPE_CHECKING:
    from mlflow.entities import Run

UNKNOWN = "not recorded"


def origins(root: Path, records: Mapping[str, Run]) -> dict[str, Counter[str]]:
    """What is known of the runs, each value with the number of runs that have it.

    Args:
        root: the folder of runs; those that are not in it have no versions.
        records: the runs by run_id.
    """
    found: dict[str, Counter[str]] = {name: Counter() for name in ("commit", "host", "machine")}
    for run_id, run in sorted(records.items()):
        tags = run.data.tags
        edited = " with uncommitted changes" if tags.get(f"{PREFIX}git_dirty") == "true" else ""
        found["commit"][f"{tags.get(COMMIT, UNKNOWN)}{edited}"] += 1
        found["host"][tags.get(f"{PREFIX}host", UNKNOWN)] += 1
        attempts = RunDirectory(root, run_id).provenance()
        last = attempts[-1] if attempts else {}
        machine = f"{last['machine']}, {last['cpus']} processors" if "cpus" in last else UNKNOWN
        found["machine"][machine] += 1
        versions = {"python": last.get("python"), **last.get("versions", {})}
        for name, version in versions.items():
            found.setdefault(name, Counter())[version or UNKNOWN] += 1
    return found


def last_end(records: Mapping[str, Run]) -> str:
    """When the last of the runs ended, in UTC; empty where none did."""
    ends = [run.info.end_time for run in records.values() if run.info.end_time]
    if not ends:
        return ""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(max(ends) / 1000))
