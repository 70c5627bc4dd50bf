"""The command `python -m analysis`: exhibits from recorded runs.

It reads the record, refuses one with gaps, and writes each exhibit's files under
`<reports>/<scale>/`. Whatever is wrong is one clear line and exit code 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

Maker = Callable[[str, list[str], argparse.Namespace], Iterable[Path]]

DEFAULT_SCALE = "nano"
SHOWN_LINES = 2
WHOLE = {
    "ledger": "Every claim of the paper: verdict, test, effect, runs, corrected over all",
    "report": "Every exhibit and the ledger as one page, report.html",
}
"""Words of the command that are about every exhibit."""

_EPILOG = """
typically:
  python -m analysis --list                        what there is, and what each asks
  python -m analysis figure9                       one exhibit, to reports/nano/
  python -m analysis figure9 --allow-incomplete    with what there is, while it still trains
  python -m analysis table10 --scale small         at another scale
  python -m analysis table10 precision=bf16        launched as sweep=table10 precision=bf16
  python -m analysis tuning --study theta_delta_t  a search
  python -m analysis report                        everything as one page, report.html
  python -m analysis ledger                        every claim with its verdict, ledger.md

An exhibit is written as PNG, SVG, CSV and Markdown. It is made from the record, which
python launch.py brings up to date when it ends; spam-lab sync does so at any time.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_intermixed_args(arguments)
    # Imported late, so that --help and --list are quick.
    from analysis.catalogue import TUNING, ExhibitError, configured_names, exhibit_names

    if options.list:
        _print_list(exhibit_names())
        return 0
    from analysis.frames import FrameError
    from spam_lab.config.fields import ConfigError
    from spam_lab.record.mlflow_store import TrackingError

    # --study takes all words up to the next option, overrides among them.
    words = [*options.words, *(word for word in options.study if "=" in word)]
    names = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    options.study = [word for word in options.study if "=" not in word]
    try:
        if not names:
            known = ", ".join([*exhibit_names(), *WHOLE])
            raise ExhibitError(f"name an exhibit: {known}")
        overrides = _with_scale(options.scale, overrides)
        if options.study and TUNING not in names:
            raise ExhibitError(f"--study is for the exhibit {TUNING}")
        for name in names:
            if name in WHOLE:
                make: Maker = _make_whole
            elif name in configured_names():
                make = _make_from_config
            else:
                make = _make_tuning if name == TUNING else _make
            for path in make(name, overrides, options):
                print(path)
    except (ExhibitError, FrameError, TrackingError, ConfigError, OSError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Make exhibits, the paper's figures and tables, from recorded runs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="EXHIBIT | KEY=VALUE",
        help="exhibits, ledger or report; and the overrides that the sweep was launched with",
    )
    parser.add_argument("--list", action="store_true", help="print the exhibits there are")
    parser.add_argument("--scale", help=f"nano | small | paper (default: {DEFAULT_SCALE})")
    parser.add_argument(
        "--study",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="tuning: the studies (default: all at the scale)",
    )
    parser.add_argument(
        "--ui",
        metavar="ADDRESS",
        help="report: an MLflow UI to link runs to, http://...; '' for none "
        "(default: the server in MLFLOW_TRACKING_URI, or the spam-lab ui that is up)",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="DIR",
        help="folder of run directories (default: runs; environment: SPAM_LAB_RUNS)",
    )
    parser.add_argument(
        "--reports",
        type=Path,
        metavar="DIR",
        default=Path("reports"),
        help="folder to write to (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-incomplete", action="store_true", help="show what there is, marking the gaps"
    )
    return parser


def _one_line(error: Exception) -> str:
    """An error's text in one line. A bad override is refused by every cell: the first will do."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    more = len(lines) - SHOWN_LINES
    return " ".join(lines[:SHOWN_LINES]) + (f" (and {more} more lines)" if more > 0 else "")


def _print_list(names: Sequence[str]) -> None:
    from analysis.catalogue import TUNING, configured_names
    from spam_lab.orchestrate.expand import load_sweep

    configured = configured_names()
    for name in names:
        if name == TUNING or name in configured:
            description = importlib.import_module(f"analysis.{name}").DESCRIPTION
        else:
            description = load_sweep(name).description
        print(f"{name:12} {description}")
    for word, description in WHOLE.items():
        print(f"{word:12} {description}")


def _with_scale(scale: str | None, overrides: list[str]) -> list[str]:
    """The overrides with exactly one choice of scale, given either way."""
    from analysis.catalogue import ExhibitError

    given = [word for word in overrides if word.startswith("scale=")]
    if given and scale is not None:
        raise ExhibitError(f"give the scale once: --scale {scale} or {given[0]}")
    return overrides if given else [f"scale={scale or DEFAULT_SCALE}", *overrides]


def _make(name: str, overrides: list[str], options: argparse.Namespace) -> list[Path]:
    from analysis.catalogue import load_build
    from analysis.exhibit import write
    from analysis.frames import require_complete, results
    from spam_lab.orchestrate.expand import expand, load_sweep
    from spam_lab.orchestrate.tuned import tuned_of
    from spam_lab.record.mlflow_store import tracking_uri

    build = load_build(name)
    requests = expand(load_sweep(name), overrides, tuned_of(overrides))
    scale = requests[0].config.scale
    runs = options.runs or Path(os.environ.get("SPAM_LAB_RUNS", requests[0].config.paths.runs))
    launch = " ".join(["python launch.py", f"sweep={name}", *overrides])
    frame = results(requests, scale.name, tracking_uri(runs), name)
    frame["root"] = str(runs)  # where exhibits find what a run directory alone holds
    require_complete(frame, options.allow_incomplete, launch)
    made = " ".join(["python -m analysis", name, *overrides])
    if options.allow_incomplete:
        made += " --allow-incomplete"
    paths = write(build(frame, requests, scale), options.reports / scale.name, [launch, made])
    _attach(paths, tracking_uri(runs), scale.name, name)
    return paths


def _attach(paths: Sequence[Path], tracking_uri: str, scale: str, sweep: str) -> None:
    """Put the files beside the sweep in the record; where that fails they are on disk all the
    same, and a line says so."""
    from spam_lab.record.exhibits import attach
    from spam_lab.record.mlflow_store import TrackingError

    try:
        if not attach(tracking_uri, scale, sweep, paths):
            print(f"not in the record: it has no sweep {sweep} (spam-lab sync)", file=sys.stderr)
    except TrackingError as error:
        print(f"not in the record: {_one_line(error)}", file=sys.stderr)


def _make_whole(name: str, overrides: list[str], options: argparse.Namespace) -> list[Path]:
    from analysis import whole
    from spam_lab.config.compose import compose_command

    given = [word.removeprefix("scale=") for word in options.words if word.startswith("scale=")]
    scale = options.scale or next(iter(given), None)
    rest = [word for word in overrides if not word.startswith("scale=")]
    runs = options.runs or Path(compose_command(rest).paths.runs)
    return whole.make(name, scale, rest, runs, options.reports, options.ui)


def _make_from_config(name: str, overrides: list[str], options: argparse.Namespace) -> list[Path]:
    from analysis.catalogue import ExhibitError, load_build_from_config
    from analysis.exhibit import write
    from spam_lab.config.compose import compose_command

    if len(overrides) > 1:
        raise ExhibitError(f"{name} shows the configuration as it is: give no override but a scale")
    scale = compose_command(overrides).scale.name
    exhibit = load_build_from_config(name)(scale)
    made = " ".join(["python -m analysis", name, *overrides])
    return write(exhibit, options.reports / scale, [made])


def _make_tuning(name: str, overrides: list[str], options: argparse.Namespace) -> Iterator[Path]:
    from analysis import trials, tuning
    from analysis.catalogue import ExhibitError
    from analysis.exhibit import write
    from spam_lab.config.compose import compose_command

    if len(overrides) > 1:
        more = " ".join(word for word in overrides if not word.startswith("scale="))
        raise ExhibitError(f"a study has its own overrides: leave {more} out")
    command = compose_command(overrides)
    scale = command.scale
    root = options.runs or Path(command.paths.runs)
    studies = options.study or trials.study_names(root, scale.name)
    if not studies:
        raise ExhibitError(
            f"no study was begun under {root} at scale={scale.name}: python launch.py study=..."
        )
    for study in studies:
        exhibit = tuning.build(root, study, scale, options.allow_incomplete)
        made = " ".join(["python -m analysis", name, *overrides, "--study", study])
        if options.allow_incomplete:
            made += " --allow-incomplete"
        launch = " ".join(["python launch.py", f"study={study}", *overrides])
        yield from write(exhibit, options.reports / scale.name, [launch, made])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # piped into head, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
