"""The command that launches runs again, put together from what was kept of the first one.

It promises a line that can be pasted into a shell and that asks for the same runs: the sweep's
manifest keeps its overrides, the provenance of a run that of its own command.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from spam_lab.commands.overview import SINGLE, Overview
from spam_lab.record.store import RunDirectory, SweepManifest


def launch_command(overview: Overview, run_id: str, extra: Sequence[str] = ()) -> str:
    """The command that launches a run, with its sweep where it is of one.

    Args:
        overview: the folder.
        run_id: which run.
        extra: overrides that replace those of the same keys.
    """
    sweep = overview.sweep_of(run_id)
    if sweep.name != SINGLE:
        return sweep_command(overview.root, sweep, extra)
    for attempt in reversed(RunDirectory(overview.root, run_id).provenance()):
        program, *given = attempt.get("command") or [""]
        if program.endswith("launch.py"):
            return _line(overview.root, given, extra)
    return "the python launch.py command that asked for it"


def sweep_command(root: Path, sweep: SweepManifest, extra: Sequence[str] = ()) -> str:
    """The command that launches a sweep or study as it was launched."""
    given = [o for o in sweep.overrides if not o.startswith((f"{sweep.kind}=", "scale="))]
    scale = [o for o in sweep.overrides if o.startswith("scale=")]
    if not scale and sweep.scale not in ("", "nano"):
        scale = [f"scale={sweep.scale}"]
    return _line(root, [f"{sweep.kind}={sweep.name}", *scale, *given], extra)


def _line(root: Path, given: Sequence[str], extra: Sequence[str]) -> str:
    replaced = {override.partition("=")[0] for override in extra}
    kept = [
        override
        for override in given
        if not override.startswith(("dry_run=", "follow=", "-"))
        and override.partition("=")[0].lstrip("+") not in replaced
    ]
    runs = os.environ.get("SPAM_LAB_RUNS") or "runs"
    if Path(runs).resolve() != root.resolve() and not any(
        o.startswith("paths.runs=") for o in kept
    ):
        kept.append(f"paths.runs={root}")
    grid = ["-m"] if any(_is_sweep(override) for override in kept) or "-m" in given else []
    words = ["python", "launch.py", *grid, *kept, *extra]
    return " ".join(shlex.quote(word) for word in words)


def _is_sweep(override: str) -> bool:
    """Whether an override gives several values, as in a grid: a comma outside of brackets."""
    depth, quoted = 0, ""
    for letter in override.partition("=")[2]:
        if quoted:
            quoted = "" if letter == quoted else quoted
        elif letter in "'\"":
            quoted = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth == 0:
            return True
    return False
