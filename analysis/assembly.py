"""Every exhibit at a scale, put together from one reading of the record.

It owns what the report and the ledger have in common: which exhibits there are, the runs that each
asks for (under the overrides with which its sweep was launched, where none are given), what the
record holds of them, and the exhibit itself. It promises that one exhibit that cannot be made
leaves the others as they are and is named, with the reason.
"""

from __future__ import annotations

import importlib
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis import trials, tuning
from analysis.catalogue import (
    TUNING,
    configured_names,
    exhibit_names,
    load_build,
    load_build_from_config,
)
from analysis.frames import RESULTS, FrameError, recorded, table_of
from spam_lab.config.compose import compose_command, override_keys
from spam_lab.config.fields import ConfigError
from spam_lab.orchestrate.expand import Request, expand, load_sweep, sweep_names
from spam_lab.orchestrate.tuned import tuned_of
from spam_lab.record.mlflow_store import tracking_uri
from spam_lab.record.store import SweepManifest, sweep_manifests

if TYPE_CHECKING:
    from mlflow.entities import Run

    from analysis.exhibit import Exhibit
    from spam_lab.config.schema import ScaleConfig

_NOT_THE_RUNS = ("sweep", "scale", "dry_run", "follow", "cluster", "paths")
"""Keys of a launch that say nothing about which runs were meant, or are given again."""


@dataclass(frozen=True)
class Assembled:
    """One exhibit at one scale.

    Attributes:
        name: of the exhibit; a study's is that of its files, tuning_STUDY.
        question: what it asks, in a sentence.
        scale: the scale's name.
        launch: the command that trains its runs, or what is missing of them.
        make: the command that makes the exhibit.
        frame: one row a request, as `frames.table_of`; empty for a study, and for what is rendered
            from the configuration alone.
        exhibit: None where it could not be made; `problem` says why.
    """

    name: str
    question: str
    scale: str
    launch: str
    make: str
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    exhibit: Exhibit | None = None
    problem: str = ""

    @property
    def states(self) -> Counter[str]:
        """How many of the exhibit's runs, each counted once, are in which state."""
        if self.frame.empty:
            return Counter()
        return Counter(self.frame.drop_duplicates("run_id")["state"])

    @property
    def runs(self) -> int:
        """How many runs it asks for."""
        return sum(self.states.values())

    @property
    def results(self) -> int:
        """How many of its runs have a result."""
        return sum(self.states[state] for state in RESULTS)

    @property
    def is_complete(self) -> bool:
        """Whether it is made and no run is missing."""
        return self.exhibit is not None and self.results == self.runs


@dataclass(frozen=True)
class Scale:
    """All exhibits at one scale, in natural order, and the record of their runs by run_id."""

    config: ScaleConfig
    exhibits: tuple[Assembled, ...]
    records: Mapping[str, Run]

    @property
    def results(self) -> int:
        """How many results there are, over all exhibits."""
        return sum(exhibit.results for exhibit in self.exhibits)


def assemble(scale: str, root: Path, overrides: Sequence[str] = ()) -> Scale:
    """All exhibits at a scale, from the record of the runs under `root`.

    Args:
        scale: the scale's name.
        root: the folder of runs.
        overrides: those of the sweeps, for all of them; without any, those with which each was
            launched.

    Raises:
        ConfigError: there is no such scale.
        TrackingError: the record cannot be read.
        FrameError: the record holds a run twice.
    """
    config = compose_command([f"scale={scale}"]).scale
    launched = _launched(root, scale)
    asked: dict[str, list[Request]] = {}
    words: dict[str, list[str]] = {}
    refused: dict[str, str] = {}
    for name in exhibits_of_sweeps():
        words[name] = [f"scale={scale}", *(overrides or launched.get(name, ()))]
        try:
            asked[name] = expand(load_sweep(name), words[name], tuned_of(words[name]))
        except ConfigError as error:
            asked[name], refused[name] = [], str(error).splitlines()[-1]
    records = recorded(asked, scale, tracking_uri(root))
    exhibits = [
        _assembled(name, config, words[name], asked[name], records, root, refused.get(name, ""))
        for name in asked
    ]
    exhibits = sorted([*exhibits, *_configured(scale)], key=lambda made: natural(made.name))
    return Scale(config, (*exhibits, *_studies(root, config)), records)


def exhibits_of_sweeps() -> list[str]:
    """The exhibits that have a sweep, in natural order: table2 before table10."""
    sweeps = set(sweep_names())
    return sorted((name for name in exhibit_names() if name in sweeps), key=natural)


def natural(name: str) -> tuple[str, int, str]:
    """A key that sorts names as people count: figure2 before figure10."""
    letters = name.rstrip("0123456789")
    return letters, int(name[len(letters) :] or 0), name


def _launched(root: Path, scale: str) -> dict[str, list[str]]:
    """The overrides with which each sweep was last launched at a scale."""
    manifests = sweep_manifests(root) if root.is_dir() else []
    return {m.name: _meant(m) for m in manifests if m.scale == scale and m.kind == "sweep"}


def _meant(manifest: SweepManifest) -> list[str]:
    """A manifest's overrides without those of where and how."""
    return [
        override
        for override in manifest.overrides
        if not any(key.partition(".")[0] in _NOT_THE_RUNS for key in override_keys([override]))
    ]


def _assembled(
    name: str,
    scale: ScaleConfig,
    overrides: Sequence[str],
    requests: Sequence[Request],
    records: Mapping[str, Run],
    root: Path,
    refused: str,
) -> Assembled:
    made = Assembled(
        name,
        load_sweep(name).description,
        scale.name,
        _command("launch.py", f"sweep={name}", *overrides),
        _command("-m analysis", name, *overrides),
        problem=refused,
    )
    if not requests:
        return made if refused else replace(made, problem="nothing to run under these overrides")
    frame = table_of(requests, records)
    frame["root"] = str(root)  # where exhibits find what a run directory alone holds
    made = replace(made, frame=frame)
    try:
        return replace(made, exhibit=load_build(name)(frame, requests, scale))
    # Whatever one exhibit stumbles over, the others are to be had; its page says what it was.
    except Exception as error:
        return replace(made, problem=f"{type(error).__name__}: {error}")


def _configured(scale: str) -> Iterator[Assembled]:
    """The exhibits without runs, rendered from the configuration."""
    for name in configured_names():
        description = importlib.import_module(f"analysis.{name}").DESCRIPTION
        make = _command("-m analysis", name, f"--scale {scale}")
        made = Assembled(name, description, scale, "", make)
        try:
            yield replace(made, exhibit=load_build_from_config(name)(scale))
        except ConfigError as error:
            yield replace(made, problem=str(error))


def _studies(root: Path, scale: ScaleConfig) -> Iterator[Assembled]:
    """The exhibit of every study begun under `root`."""
    for study in trials.study_names(root, scale.name):
        made = Assembled(
            f"{TUNING}_{study}",
            tuning.DESCRIPTION,
            scale.name,
            _command("launch.py", f"study={study}", f"scale={scale.name}"),
            _command("-m analysis", TUNING, "--study", study, f"--scale {scale.name}"),
        )
        try:
            yield replace(made, exhibit=tuning.build(root, study, scale))
        except (FrameError, ConfigError) as error:
            yield replace(made, problem=str(error))


def _command(program: str, *words: str) -> str:
    return " ".join(
        ["python", program, *(word if " " in word else shlex.quote(word) for word in words)]
    )
