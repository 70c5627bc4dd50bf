"""Settings that a study found, taken over into the runs of a sweep, a grid or a single command.

`tuned=PATH` names a study's winners.json: entries with "where", which says what runs are meant, and
"set", the overrides for them. A config group in "where" is compared with the option chosen, any
other key with the run's value. Whatever the cell or the command line sets itself wins. It promises
that a file that says nothing about the runs asked for is refused, never silently without effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spam_lab.config.compose import (
    chosen_options,
    compose_command,
    compose_run,
    groups,
    override_keys,
)
from spam_lab.config.fields import ConfigError, walk
from spam_lab.config.identity import run_id
from spam_lab.config.schema import RunConfig
from spam_lab.files import read_json
from spam_lab.orchestrate.grid import Value

SCALAR = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Winner:
    """One entry: overrides for the runs that `where` describes, found at `scale`.

    `study` and `seed` say by which study and on which seed; a file by hand may not say so.
    """

    where: Mapping[str, Value]
    settings: Mapping[str, Value]
    scale: str
    study: str = ""
    seed: int | None = None

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.where.items()) or "every run"


@dataclass
class Tuned:
    """What a file of winners says, and what came of it.

    Attributes:
        path: the file, as it was given.
        winners: its entries.
        matched: how many requests an entry is for.
        changed: how many of those are other runs for it.
    """

    path: str
    winners: Sequence[Winner]
    matched: int = 0
    changed: int = 0
    _asked: int = 0
    _used: set[int] = field(default_factory=set)
    _sources: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str) -> Tuned:
        """The winners in a file.

        Raises:
            ConfigError: there is no such file, or it is none of winners.
        """
        try:
            content = read_json(Path(path))
        except FileNotFoundError:
            raise ConfigError(
                f"tuned={path}: there is no such file; a study writes one, winners.json, when it "
                "has its trials"
            ) from None
        except ValueError as error:
            raise ConfigError(f"tuned={path} cannot be read: {error}") from None
        if not isinstance(content, list) or not content:
            raise ConfigError(f"tuned={path} holds no winners of a study")
        return cls(path, [_winner(path, entry) for entry in content])

    def config(self, overrides: Sequence[str], own: Mapping[str, Value]) -> RunConfig:
        """The run of these overrides and a cell's own, with what was found for it.

        Raises:
            ConfigError: two entries are for it, or what was found must not run.
        """
        plain = compose_run(overrides, own)
        options = chosen_options(overrides, own)
        values = {key: value for key, _, value in walk(plain)}
        given = override_keys(overrides) | set(own)
        self._asked += 1
        places = [
            place
            for place, winner in enumerate(self.winners)
            if _is_meant(winner, options, values, given)
        ]
        if not places:
            return plain
        if len(places) > 1:
            both = " and ".join(str(self.winners[place]) for place in places)
            raise ConfigError(f"tuned={self.path} has more than one entry for a run: {both}")
        winner = self.winners[places[0]]
        found = {key: value for key, value in winner.settings.items() if key not in given}
        try:
            tuned = compose_run(overrides, {**found, **own})
        except ConfigError as error:
            raise ConfigError(f"tuned={self.path}, for {winner}: {error}") from None
        self.matched += 1
        self.changed += run_id(tuned) != run_id(plain)
        self._used.add(places[0])
        if found:
            self._sources[run_id(tuned)] = self._source(winner, found)
        return tuned

    def source(self, run: str) -> str:
        """What was found for the run of this id and where; empty where nothing was."""
        return self._sources.get(run, "")

    def _source(self, winner: Winner, found: Mapping[str, Value]) -> str:
        study = f"the study {winner.study}" if winner.study else Path(self.path).name
        seed = "" if winner.seed is None else f", seed {winner.seed}"
        return f"{', '.join(sorted(found))} by {study} (scale {winner.scale}{seed})"

    def require_scale(self, overrides: Sequence[str]) -> None:
        """See that the runs of these overrides are of the scale at which it was found.

        Raises:
            ConfigError: they are of another.
        """
        asked = chosen_options(overrides, {})["scale"]
        found = sorted({winner.scale for winner in self.winners})
        if found != [asked]:
            raise ConfigError(
                f"tuned={self.path} was found at scale={', '.join(found)}, and these runs are at "
                f"scale={asked}: what is best at one scale need not be at another"
            )

    def require_match(self) -> None:
        """See that the file said something about any of the runs.

        Raises:
            ConfigError: it did not.
        """
        if self.matched:
            return
        known = set(groups()) | {key for key, _, _ in walk(compose_command([]))}
        strange = sorted({k for w in self.winners for k in w.where if k not in known})
        hint = f" ({', '.join(strange)}: no key of every run)" if strange else ""
        entries = "; ".join(map(str, self.winners))
        raise ConfigError(f"tuned={self.path} is for none of these runs: it is for {entries}{hint}")

    def __str__(self) -> str:
        unused = len(self.winners) - len(self._used)
        line = (
            f"tuned={self.path} is for {self.matched} of {self._asked} requests "
            f"and changes {self.changed}"
        )
        return line + (f"; {unused} of its {len(self.winners)} entries are for none" * (unused > 0))


def tuned_of(overrides: Sequence[str]) -> Tuned | None:
    """The file of winners that the overrides name; None where they name none.

    Raises:
        ConfigError: it cannot be used.
    """
    if not any(override.startswith("tuned=") for override in overrides):
        return None
    path = compose_command([o for o in overrides if o.startswith("tuned=")]).tuned
    return None if path is None else Tuned.read(path)


def _is_meant(
    winner: Winner, options: Mapping[str, str], values: Mapping[str, Value], given: set[str]
) -> bool:
    """Whether an entry is for a run; not where the run has its own choice of what was found too."""
    same = all(
        options[key] == value if key in options else key in values and values[key] == value
        for key, value in winner.where.items()
    )
    taken = (key for key in winner.settings if key in options and key in given)
    return same and all(options[key] == winner.settings[key] for key in taken)


def _winner(path: str, entry: Any) -> Winner:
    parts = [entry.get(name) for name in ("where", "set")] if isinstance(entry, dict) else [None]
    for part in parts:
        if not isinstance(part, dict) or not all(isinstance(v, SCALAR) for v in part.values()):
            raise ConfigError(
                f'tuned={path} holds something that is no winner of a study: each has "where", '
                '"set" and "scale"'
            )
    if not isinstance(entry.get("scale"), str):
        raise ConfigError(f"tuned={path} does not say at which scale it was found")
    if not entry["set"]:
        raise ConfigError(f"tuned={path} sets nothing")
    study, seed = entry.get("study"), entry.get("seed")
    return Winner(
        entry["where"],
        entry["set"],
        entry["scale"],
        study if isinstance(study, str) else "",
        seed if isinstance(seed, int) else None,
    )
