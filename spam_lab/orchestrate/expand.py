"""From a sweep to the runs it asks for: every cell with every seed, composed, checked and named.

The whole sweep is validated here, before anything else happens; all that is wrong with it is
reported at once. Requests of cells that coincide share a run_id. Several sweeps, or all, are
expanded each as it would be alone, so that a run they share is one run.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from spam_lab.config.compose import chosen_options, compose_run, override_keys
from spam_lab.config.fields import ConfigError
from spam_lab.config.identity import cell_id, run_id
from spam_lab.config.schema import RunConfig
from spam_lab.orchestrate.grid import Cell, Sweep, Value
from spam_lab.orchestrate.search import Study
from spam_lab.orchestrate.tuned import Tuned


@dataclass(frozen=True)
class Request:
    """One run that a sweep asks for, and where its result is shown.

    `tuned` says what of its config a study found, and which; empty where nothing is.
    """

    labels: Mapping[str, Value]
    seed: int
    run_id: str
    cell_id: str
    config: RunConfig
    tuned: str = ""


@dataclass(frozen=True)
class Expansion:
    """What one of several sweeps asks for, under the `overrides` that are for it."""

    sweep: Sweep
    overrides: tuple[str, ...]
    requests: tuple[Request, ...]


ALL = "all"
"""What stands for every sweep there is, in place of a name."""


def sweep_names() -> list[str]:
    """The sweeps there are: one a file in sweeps/ with a function `sweep`."""
    return _names("sweep")


def study_names() -> list[str]:
    """The studies there are: one a file in sweeps/ with a function `study`."""
    return _names("study")


def load_sweep(name: str) -> Sweep:
    """The sweep of `sweeps/NAME.py`.

    Raises:
        ConfigError: there is no such sweep; names those there are.
    """
    sweep = _load("sweep", name, sweep_names())
    assert isinstance(sweep, Sweep)
    return sweep


def load_study(name: str) -> Study:
    """The study of `sweeps/NAME.py`.

    Raises:
        ConfigError: there is no such study; names those there are.
    """
    study = _load("study", name, study_names())
    assert isinstance(study, Study)
    return study


def _names(kind: str) -> list[str]:
    import sweeps

    modules = (module.name for module in pkgutil.iter_modules(sweeps.__path__))
    return sorted(n for n in modules if hasattr(importlib.import_module(f"sweeps.{n}"), kind))


def _load(kind: str, name: str, names: list[str]) -> object:
    if name not in names:
        names = [*names, ALL] if kind == "sweep" else names
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{kind}={name} is not known: one of {', '.join(names)}{hint}")
    made: object = getattr(importlib.import_module(f"sweeps.{name}"), kind)()
    return made


def expand(sweep: Sweep, overrides: Sequence[str], tuned: Tuned | None = None) -> list[Request]:
    """One request for each cell and seed, in order, under the overrides given for all of them.

    Cells that are for other choices of the command line (`Cell.beside`) are left out. What was
    `tuned` is set where neither a cell nor an override says otherwise.

    Raises:
        ConfigError: an override sets a key that the sweep sets itself, or any cell is refused;
            every refused cell is named.
    """
    _require_free(sweep, override_keys(overrides))
    requests = _requests(sweep, overrides, tuned)
    if tuned is not None:
        tuned.require_match()
    return requests


def expand_sweeps(
    sweeps: Sequence[Sweep], overrides: Sequence[str], tuned: Tuned | None = None
) -> list[Expansion]:
    """What each of several sweeps asks for, in order.

    An override of a key that a sweep sets itself is for the others: it is left out of that sweep's.

    Raises:
        ConfigError: every sweep sets the key of an override itself, or a sweep is refused.
    """
    keys = {override: override_keys([override]) for override in overrides}
    taken = [_own_keys(sweep) for sweep in sweeps]
    idle = sorted(key for key in set().union(*keys.values()) if all(key in own for own in taken))
    if idle:
        raise ConfigError(f"every sweep sets {', '.join(idle)} itself: leave it out")
    expansions, refused = [], []
    for sweep, own in zip(sweeps, taken, strict=True):
        kept = tuple(override for override in overrides if not keys[override] & own)
        try:
            expansions.append(Expansion(sweep, kept, tuple(_requests(sweep, kept, tuned))))
        except ConfigError as error:
            refused.append(str(error))
    if refused:
        raise ConfigError("\n".join(refused))
    if tuned is not None:
        tuned.require_match()
    return expansions


def _requests(sweep: Sweep, overrides: Sequence[str], tuned: Tuned | None) -> list[Request]:
    """One request for each cell and seed, in order."""
    given = override_keys(overrides)
    if tuned is not None:
        tuned.require_scale(overrides)
    options = chosen_options(overrides, {})
    requests, refused = [], []
    for cell in sweep.cells:
        if not cell.beside.items() <= options.items():
            continue
        try:
            requests += [_request(cell, seed, overrides, given, tuned) for seed in sweep.seeds]
        except ConfigError as error:
            refused.append(f"{_shown(cell)}: {error}")
    if refused:
        raise ConfigError(f"sweep {sweep.name} is refused:\n" + "\n".join(refused))
    return requests


def expand_rows(rows: Sequence[Sequence[str]], tuned: Tuned | None = None) -> list[Request]:
    """One request for each list of overrides: a single run, or a grid of a command line's own.

    Raises:
        ConfigError: any is refused.
    """
    if tuned is None:
        return [request_of(compose_run(row)) for row in rows]
    requests = []
    for row in rows:
        tuned.require_scale(row)
        requests.append(request_of(tuned.config(row, {})))
    tuned.require_match()
    return requests


def request_of(config: RunConfig, labels: Mapping[str, Value] | None = None) -> Request:
    """The request for one run."""
    return Request(labels or {}, config.seed, run_id(config), cell_id(config), config)


def _request(
    cell: Cell, seed: int, overrides: Sequence[str], given: set[str], tuned: Tuned | None
) -> Request:
    own = {k: v for k, v in cell.overrides.items() if not (_is_resource(k) and k in given)}
    own["seed"] = seed
    config = tuned.config(overrides, own) if tuned else compose_run(overrides, own)
    request = request_of(config, cell.labels)
    return replace(request, tuned=tuned.source(request.run_id)) if tuned else request


def _is_beside(cell: Cell, key: str) -> bool:
    """Whether the cell sets the key in place of what the command line chose for the others."""
    return key.partition(".")[0] in cell.beside


def _is_resource(key: str) -> bool:
    """Whether the key says what a cell needs to run, which gives way to the command line."""
    return key.startswith("cluster.")


def _own_keys(sweep: Sweep) -> set[str]:
    """The keys that a sweep sets itself, whatever the command line says."""
    keys = {key for cell in sweep.cells for key in cell.overrides if not _is_beside(cell, key)}
    return {key for key in keys if not _is_resource(key)} | {"seed"}


def _require_free(sweep: Sweep, given: set[str]) -> None:
    taken = sorted(_own_keys(sweep) & given)
    if taken:
        raise ConfigError(
            f"sweep={sweep.name} sets {', '.join(taken)} itself: leave "
            f"{'it' if len(taken) == 1 else 'them'} out, or use -m for a grid of your own"
        )


def _shown(cell: Cell) -> str:
    return " ".join(f"{key}={value}" for key, value in cell.overrides.items())
