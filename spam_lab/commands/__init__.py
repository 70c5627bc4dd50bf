"""The verbs of `spam-lab`: one module each, with the verb's SUMMARY, its arguments
(`add_arguments`) and what it does (`run`, which returns an exit code).

A verb says what went wrong by raising `CommandError`, or the room's own error; `spam_lab.cli`
prints it as one line.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path


class CommandError(RuntimeError):
    """A verb cannot do what was asked; the text says why and what to do."""


def add_runs_argument(parser: ArgumentParser) -> None:
    """Add `--runs`, which every verb about run directories has."""
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("SPAM_LAB_RUNS") or "runs"),
        help="folder of run directories (default: %(default)s; environment: SPAM_LAB_RUNS)",
    )


def require_runs(runs: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        CommandError: with what to do instead.
    """
    if not runs.is_dir():
        raise CommandError(
            f"there are no runs at {runs}: give --runs DIR, or make one with python launch.py"
        )
