"""Where a study is kept: Optuna's storage, and beside it what the study is.

    <runs>/studies/<name>.<scale>/study.json    space, fixed values, seed, objectives
    <runs>/studies/<name>.<scale>/journal.log   Optuna's journal; not where a database has it
    <runs>/studies/<name>.<scale>/workers/      a folder a worker: its lease, and its hours

It promises that a study is continued only with the space, and the values beside it, that it was
begun with, and that one process at a time takes a trial, so that the number of trials is exact.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spam_lab.config.fields import ConfigError
from spam_lab.config.identity import canonical, differences
from spam_lab.config.schema import StudyConfig
from spam_lab.files import dump_json, read_json, write_json
from spam_lab.orchestrate.search import Study
from spam_lab.orchestrate.tune.space import Space, trial_config

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

FOLDER = "studies"
ADDRESS = "SPAM_LAB_STUDY_STORAGE"
"""Environment variable with the database's address, password included: no file holds it."""

UNCOMPARED = ("description", "winners_by", "fixed", "overrides", "optuna", "optuna_name")
"""Entries of study.json that may change: they move no trial, or `values` has what they come to."""


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one study at one scale."""

    root: Path
    name: str
    scale: str

    @property
    def path(self) -> Path:
        """The folder."""
        return self.root / FOLDER / self.title

    @property
    def title(self) -> str:
        """What Optuna calls the study."""
        return f"{self.name}.{self.scale}"

    @property
    def winners_path(self) -> Path:
        """The best settings found, as overrides that sweeps take."""
        return self.path / "winners.json"

    def lock(self) -> AbstractContextManager[None]:
        """Held while a trial is taken or told; the system releases it with a process that dies."""
        return flocked(self.path / "lock")

    def content(self) -> dict[str, Any]:
        """study.json.

        Raises:
            ConfigError: there is no such study.
        """
        try:
            found: dict[str, Any] = read_json(self.path / "study.json")
        except FileNotFoundError:
            raise ConfigError(
                f"no study {self.title} was begun under {self.root}: "
                f"python launch.py study={self.name}"
            ) from None
        return found


def begin(
    folder: StudyFolder,
    study: Study,
    space: Space,
    overrides: Sequence[str],
    config: StudyConfig,
) -> None:
    """Write down what the study is, or see that it is the one that was begun.

    Raises:
        ConfigError: the space, a value beside it or the storage has changed; the differences are
            shown.
    """
    import optuna

    content = {
        "name": study.name,
        "description": study.description,
        "scale": folder.scale,
        "space": space.content(),
        "values": _values_beside(study, space, overrides),
        "fixed": dict(study.fixed),
        "overrides": list(overrides),
        "seed": study.seed,
        "objectives": list(study.objectives),
        "winners_by": study.winners_by,
        "storage": config.storage,
    }
    path = folder.path / "study.json"
    with folder.lock():
        if not path.exists():
            # A database may be several people's, and remembers a study whose folder was moved away.
            name = folder.title if config.storage == "journal" else f"{folder.title}.{_token()}"
            own = {"optuna": optuna.__version__, "optuna_name": name}
            write_json(path, content | own)
            return
        known = folder.content()
    now = json.loads(dump_json(content))
    changed = [
        line
        for key in sorted(now.keys() - set(UNCOMPARED))
        for line in differences(known.get(key), now[key], f"{key}.")
    ]
    if changed:
        lines = "\n  ".join(changed)
        raise ConfigError(
            f"the study {folder.title} was begun with another space:\n  {lines}\n"
            f"move {folder.path} away to begin anew; its runs are kept and used again"
        )


def _values_beside(study: Study, space: Space, overrides: Sequence[str]) -> dict[str, Any]:
    """All that determines a trial's numbers, but for what is searched."""
    config = trial_config(study, overrides, space.corners()[0])
    values: dict[str, Any] = json.loads(canonical(asdict(config)))
    for dimension in space.dimensions:
        *parents, last = dimension.key.split(".")
        place = values
        for key in parents:
            place = place.get(key, {})
        place.pop(last, None)
    return values


def _token() -> str:
    return secrets.token_hex(4)


@contextmanager
def flocked(path: Path) -> Iterator[None]:
    """One process at a time, on this computer or on another; released when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def open_storage(folder: StudyFolder, config: StudyConfig) -> BaseStorage:
    """Optuna's storage of the study.

    Raises:
        ConfigError: a database is asked for and its address is not given, or does not answer.
    """
    from optuna.storages import JournalStorage, RDBStorage

    from spam_lab.orchestrate.tune.journal import Journal

    if config.storage == "journal":
        return JournalStorage(Journal(folder.path / "journal.log"))
    address = os.environ.get(ADDRESS)
    if not address:
        raise ConfigError(
            f"study.storage=database needs its address in the environment variable {ADDRESS}: "
            "postgresql+psycopg://user:password@host/name"
        )
    try:
        return RDBStorage(address, engine_kwargs={"pool_pre_ping": True})
    except Exception as error:  # whatever a driver or a server may say
        said = str(error).replace(address, "the database").strip().splitlines() or [""]
        raise ConfigError(
            f"the database that {ADDRESS} names cannot be used ({type(error).__name__}): {said[0]}"
        ) from None


def open_study(
    folder: StudyFolder,
    config: StudyConfig,
    *,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
) -> optuna.Study:
    """The Optuna study, made where it is not there yet."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    content = folder.content()
    objectives = content["objectives"]
    with folder.lock(), warnings.catch_warnings():
        # Under the lock: workers that make the tables of a new database together fail.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.create_study(
            study_name=content["optuna_name"],
            storage=open_storage(folder, config),
            sampler=sampler,
            pruner=pruner,
            directions=["minimize"] * len(objectives),
            load_if_exists=True,
        )
