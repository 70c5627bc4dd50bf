"""`spam-lab sync`: bring MLflow's record up to date with the run directories.

It promises to be safe at any time and any number of times: run directories are only read.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from spam_lab.commands import add_runs_argument, require_runs
from spam_lab.record.mlflow_store import tracking_uri
from spam_lab.record.tracking import sync

SUMMARY = "record run directories in MLflow"
DETAILS = """
Reads every run directory and brings MLflow's record up to date: one experiment a scale, a parent
run a sweep, a child run a run. Safe at any time, also while runs go on, and as often as you like:
what was recorded is not recorded twice, and a record that was deleted is rebuilt.

The record is kept in DIR/mlflow.db, or wherever MLFLOW_TRACKING_URI says (an http:// server or a
database). To leave it running, e.g. every minute:  watch -n 60 spam-lab sync
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_runs_argument(parser)


def run(arguments: Namespace) -> int:
    """Sync once and say what changed; 1 where a run directory had to be left out."""
    require_runs(arguments.runs)
    report = sync(
        arguments.runs,
        tracking_uri(arguments.runs),
        progress=lambda message: print(message, file=sys.stderr, flush=True),
    )
    runs = report.new + report.updated + report.unchanged
    print(
        f"{runs} runs in {report.sweeps} sweeps: {report.new} new, {report.updated} updated, "
        f"{report.unchanged} unchanged"
    )
    print(f"record: {report.store}")
    for problem in report.problems:
        print(f"left out: {problem}", file=sys.stderr)
    print("next: spam-lab ui" if runs else "next: python launch.py, then spam-lab sync")
    return 1 if report.problems else 0
