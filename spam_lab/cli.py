"""`spam-lab`: the verbs for afterwards, when runs have been launched.

It owns the table of verbs and what they have in common: help that teaches, exit code 0, or 1 with
one line on stderr, and no traceback for what a user can mend.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from spam_lab.commands import CommandError, bench, doctor, status, sync, ui
from spam_lab.record.mlflow_store import TrackingError
from spam_lab.record.store import StoreError

_VERBS = {"status": status, "sync": sync, "ui": ui, "doctor": doctor, "bench": bench}
_EPILOG = """
runs are launched with python launch.py (see its --help); typically:
  python launch.py sweep=figure9     launch, and leave
  spam-lab status                    see how far it is
  spam-lab sync                      record what there is
  spam-lab ui                        look at it
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = _VERBS[arguments.verb].run(arguments)
        return code
    except (CommandError, StoreError, TrackingError) as error:
        print(f"spam-lab {arguments.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


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
