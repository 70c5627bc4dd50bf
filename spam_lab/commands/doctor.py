"""`spam-lab doctor`: whether this machine, and its cluster, have what runs need.

It promises one line a finding that says ok or what to do, and to leave nothing behind. What is
looked at is in `doctor_checks`.
"""

from __future__ import annotations

import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from spam_lab.commands import add_runs_argument
from spam_lab.commands.doctor_checks import Finding, folder, machine, optimizers, record, slurm
from spam_lab.files import dump_json

SUMMARY = "check this machine and its cluster, or list the optimizers"
DETAILS = """
Looks at versions, processor and GPU, whether torch.compile works, the folder of
runs, MLflow's record, and SLURM where it is here; a line each: ok, note (works
without), or MEND and how.

  spam-lab doctor
  spam-lab doctor cluster.partition=gpu    would SLURM take such jobs?
  spam-lab doctor --jobs                   do nodes see the folder of runs?
  spam-lab doctor --optimizers             memory, step times, learning rates
"""

WIDTH = 80


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="what jobs ask for, as to launch.py"
    )
    parser.add_argument("--jobs", action="store_true", help="send a job of a second; it queues")
    parser.add_argument("--optimizers", action="store_true", help="the optimizers instead")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    add_runs_argument(parser)


def run(arguments: Namespace) -> int:
    """Print the findings or the optimizers; 1 where something needed is missing or fails."""
    if arguments.optimizers:
        lines = optimizers.optimizers()
        if arguments.json:
            print(dump_json([asdict(line) for line in lines], indent=1))
        else:
            print(optimizers.table(lines))
        return int(any(line.problem for line in lines))
    findings = []
    for finding in look(arguments.runs, arguments.overrides, arguments.jobs):
        findings.append(finding)
        if not arguments.json:
            print(_shown(finding), flush=True)
    if arguments.json:
        print(dump_json([asdict(finding) for finding in findings], indent=1))
    return int(any(finding.advice and finding.needed for finding in findings))


def look(runs: Path, overrides: Sequence[str] = (), jobs: bool = False) -> Iterator[Finding]:
    """Everything that the doctor looks at, in the order in which it matters, as it is found."""
    looks: list[Callable[[], Finding | list[Finding]]] = [
        machine.versions,
        machine.constraints,
        machine.cores,
        machine.gpu,
        machine.compiler,
        machine.compilation,
        lambda: folder.look(runs),
        lambda: record.look(runs),
        lambda: slurm.look(overrides),
    ]
    if jobs:
        looks.append(lambda: slurm.shared_folder(runs, overrides))
    for one in looks:
        found = one()
        yield from found if isinstance(found, list) else [found]


def _shown(finding: Finding) -> str:
    mark = "ok" if not finding.advice else ("MEND" if finding.needed else "note")
    text = f"{finding.state}: {finding.advice}" if finding.advice else finding.state
    return textwrap.fill(f"{mark:5}{finding.what:15}{text}", WIDTH, subsequent_indent=" " * 20)
