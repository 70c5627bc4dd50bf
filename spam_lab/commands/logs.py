"""`spam-lab logs`: what a run's worker printed, or what its SLURM job did.

It promises the end of the log at once however long it is, and with --follow to end with the run.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from spam_lab.commands import CommandError, add_runs_argument
from spam_lab.commands.job_output import jobs_of_run, last_output, tail
from spam_lab.commands.overview import ALIVE, Overview
from spam_lab.commands.selection import find_run
from spam_lab.commands.status import say
from spam_lab.record.store import RunDirectory

SUMMARY = "show what a run's worker or job printed"
DETAILS = """
Prints the end of a run's log.txt, where its worker writes warnings and errors
with tracebacks; with --job what its last SLURM job printed. RUN is the
beginning of a run_id, or words of its readable name that no other run has.

  spam-lab logs 3f9a
  spam-lab logs "theta=500 seed=1" --follow    until it has ended, or Ctrl-C
  spam-lab logs 3f9a --job --lines 200
"""

LINES = 50
POLL_SECONDS, LOOK_SECONDS = 0.5, 5.0


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("run", metavar="RUN", help="beginning of a run_id, or a readable name")
    parser.add_argument("--follow", "-f", action="store_true", help="print what comes, as it comes")
    parser.add_argument(
        "--lines",
        "-n",
        type=_count,
        default=LINES,
        metavar="N",
        help="lines (default: %(default)s)",
    )
    parser.add_argument("--job", action="store_true", help="what its SLURM job printed instead")
    add_runs_argument(parser)


def run(arguments: Namespace) -> int:
    """Print the log; 0 also where there is nothing to print yet."""
    overview = Overview.of(arguments.runs)
    run_id = find_run(overview, arguments.run)
    directory = RunDirectory(arguments.runs, run_id)
    status = directory.status()

    def where() -> Path | None:
        if not arguments.job:
            return directory.log_path if directory.log_path.exists() else None
        found = last_output(directory, status.job)
        return found[1] if found else None

    if arguments.job and not jobs_of_run(directory):
        raise CommandError(f"no SLURM job was ever given {run_id}: leave out --job")
    path = where()
    name = overview.named(run_id)
    if path is None and not arguments.follow:
        what = "its job has" if arguments.job else f"{name} has"
        hint = "" if arguments.job else " (a worker writes only what goes wrong)"
        say(f"{what} printed nothing yet{hint}; spam-lab why {run_id} tells how it stands")
        return 0
    print(f"{name}: {path or 'nothing printed yet'}", file=sys.stderr)
    if path is not None:
        for line in tail(path, arguments.lines):
            print(line)
    if arguments.follow:
        sys.stdout.flush()
        try:
            _follow(where, path, lambda: _goes_on(overview, run_id))
        except KeyboardInterrupt:
            return 0
        print(f"{run_id} is {overview.truths[run_id].condition}", file=sys.stderr)
    return 0


def _goes_on(overview: Overview, run_id: str) -> bool:
    overview.look()
    truth = overview.truths[run_id]
    return truth.condition in ALIVE or (
        not truth.status.state.has_ended and run_id in overview.ordered_here()
    )


def _follow(
    where: Callable[[], Path | None], path: Path | None, goes_on: Callable[[], bool]
) -> None:
    """Print what is added, also by the next job, until nothing can be added any more."""
    at = path.stat().st_size if path is not None else 0
    looked = -LOOK_SECONDS
    alive = True
    while True:
        if path is not None:
            at = _print_from(path, at)
        if not alive:
            return
        if time.monotonic() - looked >= LOOK_SECONDS:
            looked = time.monotonic()
            alive = goes_on()
            found = where()
            if found != path:
                path, at = found, 0
            continue
        time.sleep(POLL_SECONDS)


def _print_from(path: Path, at: int) -> int:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(at if at <= size else 0)  # it was begun anew
        new = file.read()
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()
        return file.tell()


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)
