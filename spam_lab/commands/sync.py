"""`spam-lab sync`: bring MLflow's record up to date with the run directories, once or live.

It promises to be safe at any time and any number of times: run directories are only read.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace

from spam_lab.commands import add_runs_argument, positive_seconds, require_runs
from spam_lab.record.mlflow_store import shown, tracking_uri
from spam_lab.record.state import State
from spam_lab.record.tracking import SyncReport, sync
from spam_lab.record.watch import Watch

SUMMARY = "record run directories in MLflow"
DETAILS = """
Reads every run directory and brings MLflow's record up to date: one experiment a scale, a parent
run a sweep, a child run a run. Safe at any time, also while runs go on, and as often as you like:
what was recorded is not recorded twice, and a record that was deleted is rebuilt.

The record is kept in DIR/mlflow.db, or wherever MLFLOW_TRACKING_URI says (an http:// server or a
database). To a server that asks who you are, it gives MLFLOW_TRACKING_USERNAME and
MLFLOW_TRACKING_PASSWORD from the environment.

  spam-lab sync                 once
  spam-lab sync --watch         live, until every run has ended or Ctrl-C
  MLFLOW_TRACKING_URI=http://mlflow.lab:5000 spam-lab sync --watch 60

A watch whose server goes away says so once, keeps trying, and records everything when it is back.
Start it when the runs are there, on one machine; workers never talk to MLflow. A run that was
preempted, or whose worker vanished, has not ended: it is waited for.
"""

_SECONDS = 30.0


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_runs_argument(parser)
    parser.add_argument(
        "--watch",
        nargs="?",
        type=positive_seconds,
        const=_SECONDS,
        metavar="SECONDS",
        help=f"sync again and again, looking every SECONDS (default: {_SECONDS:g}), until every "
        "run has ended",
    )


def run(arguments: Namespace) -> int:
    """Sync and say what changed; 1 where a run directory had to be left out."""
    require_runs(arguments.runs)
    if arguments.watch is not None:
        return _watch(arguments)
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


def _watch(arguments: Namespace) -> int:
    uri = tracking_uri(arguments.runs)
    print(
        f"recording {arguments.runs} in {shown(uri)}, looking every {arguments.watch:g} s, until "
        "every run has ended; Ctrl-C stops it",
        flush=True,
    )
    watch = Watch(arguments.runs, uri, arguments.watch, _say)
    try:
        report = watch.until_all_have_ended()
    except KeyboardInterrupt:
        if watch.report is None:
            _say("stopped before anything was recorded")
            return 1
        left = f"{watch.report.unfinished} of {watch.report.states.total()} runs had not ended"
        _say(f"stopped: {left} when they were last recorded")
        return 0
    _say(f"every run has ended and is recorded: {_counts(report)}")
    return 1 if report.problems else 0


def _say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def _counts(report: SyncReport) -> str:
    return ", ".join(f"{report.states[s]} {s}" for s in State if report.states[s])
