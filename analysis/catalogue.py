"""Which exhibits there are: modules of this package that have the name of a sweep.

Such a module has a function `build(frame, requests, scale) -> Exhibit`. There is no list of them:
both folders are looked at, and nothing is imported before it is asked for. Studies share one
exhibit, `tuning`, which is made from their trials. A module named for a table of the paper that has
no sweep is rendered from the configuration alone: it has `DESCRIPTION` and a function
`build_from_config(scale) -> Exhibit`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from analysis.exhibit import Exhibit
    from spam_lab.config.schema import ScaleConfig
    from spam_lab.orchestrate.expand import Request

Build = Callable[["pd.DataFrame", "Sequence[Request]", "ScaleConfig"], "Exhibit"]

BuildFromConfig = Callable[[str], "Exhibit"]

TUNING = "tuning"
"""The exhibit of every study."""


class ExhibitError(RuntimeError):
    """An exhibit that does not exist."""


def exhibit_names() -> list[str]:
    """Names that have both a sweep and a module here, those without runs, and that of studies."""
    modules, asked = _names()
    return sorted((asked & modules) | set(configured_names()) | {TUNING})


def configured_names() -> list[str]:
    """The exhibits that are rendered from the configuration: tables of the paper without runs."""
    modules, asked = _names()
    return sorted(name for name in modules - asked if re.fullmatch(r"table\d+", name))


def load_build_from_config(name: str) -> BuildFromConfig:
    """The `build_from_config` function of an exhibit without runs."""
    build: BuildFromConfig = importlib.import_module(f"analysis.{name}").build_from_config
    return build


def _names() -> tuple[set[str], set[str]]:
    """The modules here, and those in sweeps/."""
    import analysis
    import sweeps

    folders = (analysis.__path__, sweeps.__path__)
    here, asked = ({module.name for module in pkgutil.iter_modules(folder)} for folder in folders)
    return here, asked


def load_build(name: str) -> Build:
    """The `build` function of the exhibit `name` of a sweep."""
    names = exhibit_names()
    if name not in names:
        raise ExhibitError(_unknown(name, names))
    build: Build = importlib.import_module(f"analysis.{name}").build
    return build


def _unknown(name: str, names: Sequence[str]) -> str:
    """Why there is no exhibit of that name, and what to do."""
    from spam_lab.orchestrate.expand import study_names, sweep_names

    if name in study_names():
        return f"{name} is a study: python -m analysis {TUNING} --study {name}"
    if name in sweep_names():
        return (
            f"the sweep {name} has nothing that shows it yet: write analysis/{name}.py with "
            f"build(frame, requests, scale) -> Exhibit (README, Add an exhibit)"
        )
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"exhibit {name} is not known: one of {', '.join(names)}{hint}"
