"""The verbs of `spam-lab`: one module each, with the verb's SUMMARY, its arguments
(`add_arguments`) and what it does (`run`, which returns an exit code).

A verb says what went wrong by raising `CommandError`, or the room's own error; `spam_lab.cli`
prints it as one line.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
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


def confirm(question: str, yes: bool) -> bool:
    """Whether the user agrees; `yes` where that was said on the command line.

    Raises:
        CommandError: there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Nobody can be asked here: add --yes to agree")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def positive_seconds(text: str) -> float:
    """The value of an option that is a number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
