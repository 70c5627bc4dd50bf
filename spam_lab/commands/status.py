"""`spam-lab status`: what the runs are doing, read from their directories.

It promises to write nothing and to need neither the record nor the process that launched the runs.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.console import Console

from spam_lab.commands import CommandError, add_runs_argument, require_runs
from spam_lab.config.labels import run_labels
from spam_lab.orchestrate.census import Census
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, SweepManifest, run_directories, sweep_manifests

SUMMARY = "show what the runs are doing"
DETAILS = """
Counts the runs of every sweep by state, shows those that are running with their step, loss and
speed, and the reason of those that failed or diverged. A run that says it is running but that no
live worker holds is shown as lost: the command that launched it takes it up again.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("sweep", nargs="?", help="only this sweep (default: all runs)")
    add_runs_argument(parser)


def run(arguments: Namespace) -> int:
    """Print the state of things; 1 where runs failed or were lost."""
    require_runs(arguments.runs)
    console = Console(highlight=False, soft_wrap=True)
    manifests = sweep_manifests(arguments.runs)
    if arguments.sweep:
        names = sorted({manifest.name for manifest in manifests})
        manifests = [m for m in manifests if m.name == arguments.sweep]
        if not manifests:
            known = ", ".join(names) or "none yet"
            raise CommandError(f"no sweep {arguments.sweep} was launched here: {known}")
    shown = [_show(console, arguments.runs, manifest) for manifest in manifests]
    if not arguments.sweep:
        served = {run_id for manifest in manifests for run_id in manifest.run_ids}
        others = [d.run_id for d in run_directories(arguments.runs) if d.run_id not in served]
        if others:
            shown.append(_show(console, arguments.runs, SweepManifest("single runs", "", others)))
    if not shown:
        console.print("no runs yet: python launch.py")
    return 0 if all(shown) else 1


def _show(console: Console, root: Path, manifest: SweepManifest) -> bool:
    """Print one sweep; whether nothing in it failed or was lost."""
    census = Census(root, manifest.run_ids)
    census.refresh()
    counts, lost = census.counts(), census.lost()
    parts = [f"{counts[state]} {state}" for state in State if counts[state]]
    title = f"{manifest.name} {f'({manifest.scale})' if manifest.scale else ''}".strip()
    runs = len(manifest.run_ids)
    console.print(f"{title}: {runs} run{'' if runs == 1 else 's'}: {', '.join(parts)}")
    if not (census.running() or census.ended_badly()):
        return True
    # A run that was never started has no directory yet.
    present = [i for i in manifest.run_ids if (root / i / "config.json").exists()]
    configs = [RunDirectory(root, run_id).config_file()["config"] for run_id in present]
    labels = dict(zip(present, run_labels(configs), strict=True))
    for run_id, status in census.running():
        state = "lost" if run_id in lost else "running"
        loss = "" if status.loss is None else f", loss {status.loss:.3f}"
        speed = f", {status.tokens_per_second:,.0f} tokens/s" if status.tokens_per_second else ""
        where = f" on {status.host}" if status.host else ""
        console.print(
            f"  {state}: {run_id} ({labels[run_id]}): "
            f"step {status.step}/{status.steps}{loss}{speed}{where}"
        )
    for run_id, status in census.ended_badly():
        console.print(f"  {status.state}: {run_id} ({labels[run_id]}): {status.reason}")
    return not lost and not counts[State.FAILED]
