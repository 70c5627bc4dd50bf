"""The words of the command that are about every exhibit: `ledger` and `report`.

Both read each scale's record once. The ledger covers every scale that was run, or the one that is
named; the report shows one scale's exhibits, and the ledger of them all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import ledger, report
from analysis.assembly import Scale, assemble
from analysis.catalogue import ExhibitError
from analysis.frames import recorded_scales
from spam_lab.config.compose import groups
from spam_lab.record.mlflow_store import is_server, tracking_uri
from spam_lab.record.running_ui import running_ui

DEFAULT_SCALE = "nano"


def make(
    word: str,
    scale: str | None,
    overrides: Sequence[str],
    runs: Path,
    reports: Path,
    ui: str | None,
) -> list[Path]:
    """Make the ledger or the report.

    Args:
        word: which of the two.
        scale: the report's scale (default: nano), or the only one of the ledger.
        overrides: those of the sweeps; without any, those with which each was launched.
        runs: the folder of runs.
        reports: where to write.
        ui: the address of an MLflow UI for links; empty for none, None for the one that is up.

    Returns:
        The files written.

    Raises:
        ExhibitError: there is no such scale.
    """
    if scale is not None and scale not in groups()["scale"]:
        raise ExhibitError(f"scale={scale} is not known: one of {', '.join(groups()['scale'])}")
    if word == "ledger":
        names = [scale] if scale else _run(runs) or [DEFAULT_SCALE]
        return ledger.write(ledger.ledger_of(_assembled(names, runs, overrides)), reports)
    shown = scale or DEFAULT_SCALE
    # Overrides are for the scale that is asked for: another one was launched with its own.
    others = [] if overrides else [name for name in _run(runs) if name != shown]
    scales = _assembled(sorted({shown, *others}), runs, overrides)
    chosen = next(one for one in scales if one.config.name == shown)
    path = reports / shown / "report.html"
    ui = _ui_that_is_up(runs) if ui is None else ui
    return [report.write(chosen, ledger.ledger_of(scales), runs, path, ui)]


def _ui_that_is_up(runs: Path) -> str:
    """The server that keeps the record, or what `spam-lab ui` serves; empty for neither."""
    uri = tracking_uri(runs)
    return uri if is_server(uri) else running_ui(runs, uri)


def _run(runs: Path) -> list[str]:
    """The scales that the record knows, of those that this version has."""
    found = recorded_scales(tracking_uri(runs))
    return sorted(set(found) & set(groups()["scale"]))


def _assembled(names: Sequence[str], runs: Path, overrides: Sequence[str]) -> list[Scale]:
    scales = [assemble(name, runs, overrides) for name in names]
    for scale in scales:
        for made in scale.exhibits:
            if made.problem:
                print(f"{made.name} at {made.scale}: {made.problem}", file=sys.stderr)
    return scales
