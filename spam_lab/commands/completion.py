"""`spam-lab completion`: what makes a shell complete the verbs, their options, and names of runs.

argcomplete does the completing; this module says which names there are. It promises to read the
folder of runs and nothing else, and to complete nothing rather than to fail.
"""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from spam_lab.commands.status import say
from spam_lab.record.store import StoreError, run_directories, sweep_manifests

SUMMARY = "print what makes a shell complete these commands"
DETAILS = """
Prints a script for the shell, which then completes verbs, options, sweeps and
run_ids with the Tab key. Hydra's own completes python launch.py.

  eval "$(spam-lab completion bash)"                 in ~/.bashrc: for good
  spam-lab completion fish | source
  eval "$(python launch.py -sc install=bash)"        groups and keys of launch.py
"""

SHELLS = ("bash", "zsh", "fish")
NAMED = ("run", "names", "sweep")
"""Arguments of verbs that are completed with the names of runs and sweeps, of sweeps alone."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "shell", nargs="?", choices=SHELLS, default=SHELLS[0], help="default: %(default)s"
    )


def run(arguments: Namespace) -> int:
    """Print the script."""
    from argcomplete.shell_integration import shellcode

    say(shellcode(["spam-lab"], shell=arguments.shell))
    return 0


def autocomplete(parser: ArgumentParser) -> None:
    """Answer the shell and exit, if it is a shell that asks."""
    import argcomplete

    for action in _actions(parser):
        if action.dest in NAMED and not action.option_strings:
            action.completer = _Names(action.dest)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


class _Names:
    """The names that an argument may take, as argcomplete asks for them."""

    def __init__(self, argument: str) -> None:
        self._argument = argument

    def __call__(self, parsed_args: Namespace, **more: Any) -> list[str]:
        root: Path = parsed_args.runs
        try:
            sweeps = [manifest.name for manifest in sweep_manifests(root)]
            runs = [directory.run_id for directory in run_directories(root)]
        except (OSError, StoreError):
            return []
        wanted = {"run": runs, "sweep": sweeps}
        return sorted(wanted.get(self._argument, [*sweeps, *runs]))


def _actions(parser: ArgumentParser) -> list[argparse.Action]:
    """The arguments of a parser and of its verbs."""
    found = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            found += [one for verb in action.choices.values() for one in _actions(verb)]
    return found
