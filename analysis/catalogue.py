"""Which exhibits there are: modules of this package that have the name of a sweep.

Such a module has a function `build(frame, requests, scale) -> Exhibit`. There is no list of them:
both folders are looked at, and nothing is imported before it is asked for. Studies share one
exhibit, `tuning`, which is made from their trials.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from analysis.exhibit import Exhibit
    from spam_lab.config.schema import ScaleConfig
    from spam_lab.orchestrate.expand import Request

Build = Callable[["pd.DataFrame", "Sequence[Request]", "ScaleConfig"], "Exhibit"]


TUNING = "tuning"
"""The exhibit of every study."""


class ExhibitError(RuntimeError):
    """An exhibit that does not exist."""


def exhibit_names() -> list[str]:
    """Names that have both a sweep and a module here, and the exhibit of studies."""
    import analysis
    import sweeps

    modules = {module.name for module in pkgutil.iter_modules(analysis.__path__)}
    asked = {module.name for module in pkgutil.iter_modules(sweeps.__path__)}
    return sorted((asked & modules) | {TUNING})


def load_build(name: str) -> Build:
    """The `build` function of the exhibit `name` of a sweep."""
    names = exhibit_names()
    if name not in names:
        raise ExhibitError(f"exhibit {name} is not known: one of {', '.join(names)}")
    build: Build = importlib.import_module(f"analysis.{name}").build
    return build
