"""`spam-lab`: the verbs for afterwards, when runs have been launched.

It owns the table of verbs and what they have in common: help that teaches, exit code 0, or 1 with
one line on stderr, and no traceback for what a user can mend.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from spam_lab.commands import (
    CommandError,
    bench,
    cancel,
    completion,
    doctor,
    logs,
    retry,
    status,
    sync,
    ui,
    why,
)
from spam_lab.orchestrate.slurm.queue import SlurmError
from spam_lab.record.mlflow_store import TrackingError
from spam_lab.record.store import StoreError

_VERBS = {
    "status": status,
    "why": why,
    "logs": logs,
    "retry": retry,
    "cancel": cancel,
    "sync": sync,
    "ui": ui,
    "doctor": doctor,
    "bench": bench,
    "completion": completion,
}
_EPILOG = """
runs are launched with python launch.py (see its --help); typically:
  python launch.py sweep=figure9     launch, and leave
  spam-lab status                    see how far it is; --watch: live
  spam-lab why 3f9a                  why a run failed, and what to do
  spam-lab logs 3f9a                 what its worker printed
  spam-lab retry figure9             make what failed due again
  spam-lab cancel figure9            take its SLURM jobs back
  spam-lab sync                      record what there is
  spam-lab ui                        look at it
  spam-lab doctor                    see what this machine or cluster lacks
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; its exit code."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:
        completion.autocomplete(parser)
    arguments = parser.parse_args(argv)
    try:
        code: int = _VERBS[arguments.verb].run(arguments)
        return code
    except (CommandError, StoreError, TrackingError, SlurmError) as error:
        print(f"spam-lab {arguments.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # piped into head, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="spam-lab",
        description="What to do with runs once they are launched.",
        epilog=_EPILOG,
        formatter_class=text,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    for name, verb in _VERBS.items():
        own = verbs.add_parser(
            name, help=verb.SUMMARY, description=verb.DETAILS, formatter_class=text
        )
        verb.add_arguments(own)
    return parser


if __name__ == "__main__":
    sys.exit(main())
