"""From overrides to a typed config: the only file that touches Hydra's compose machinery.

Hydra composes each option of a group once, on its own (0.05 s); a choice of options is put together
from them, and scalar overrides are merged as Hydra itself would (a few ms), so that a plan of
thousands of runs composes in seconds.
Everything that Hydra or OmegaConf would refuse is refused here as a `ConfigError` that names the
key, the value and what is allowed.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from spam_lab.config import schema
from spam_lab.config.fields import ConfigError
from spam_lab.config.parts import keeps_to, typed_part, with_parts
from spam_lab.config.scaling import is_scaled, register_resolver
from spam_lab.config.settled import SCALAR, References, references, with_settings

CONF = Path(__file__).resolve().parents[2] / "conf"
"""The folder of YAML groups."""


def compose_command(overrides: Sequence[str]) -> schema.CommandConfig:
    """The checked config of a command line's overrides, `sweep` and `dry_run` included."""
    return _typed(_parse(overrides))


def compose_run(
    overrides: Sequence[str], more: Mapping[str, Any] | None = None
) -> schema.RunConfig:
    """The checked config of one run: Hydra overrides, then `more` as (key, value) pairs.

    Raises:
        ConfigError: an unknown key or group, a wrong type or an impossible value.
    """
    return run_config(_typed(_parse(overrides), more or {}))


def run_config(command: schema.CommandConfig) -> schema.RunConfig:
    """The run that a command line describes, without what to do with it."""
    names = (field.name for field in dataclasses.fields(schema.RunConfig))
    return schema.RunConfig(**{name: getattr(command, name) for name in names})


def from_dict(config: Mapping[str, Any]) -> schema.RunConfig:
    """The typed config that a run directory holds.

    Raises:
        ConfigError: the content does not fit the schema.
    """
    from spam_lab.optim.registry import methods
    from spam_lab.tasks.registry import tasks

    try:
        base = OmegaConf.structured(schema.RunConfig)
        name = config["optimizer"]["name"]
        base.optimizer = methods()[name].config
        if "task" in config:  # what was stored before there were tasks is pre-training
            base.task = tasks()[config["task"]["name"]].config
        typed = OmegaConf.to_object(OmegaConf.merge(base, OmegaConf.create(dict(config))))
    except (OmegaConfBaseException, KeyError, TypeError) as error:
        raise ConfigError(f"the stored config does not fit the schema: {error}") from None
    assert isinstance(typed, schema.RunConfig)
    return typed


def expand_multirun(overrides: Sequence[str]) -> list[list[str]]:
    """The cartesian product of Hydra's sweep syntax: `a=1,2 b=x` gives two override lists.

    `a=range(1,4)` and `a=choice(1,2)` work as in Hydra.
    """
    rows: list[list[str]] = [[]]
    for override in _parse(overrides):
        if override.is_sweep_override():
            key = override.get_key_element()
            texts = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            texts = [override.input_line or ""]
        rows = [[*row, text] for row in rows for text in texts]
    return rows


def groups() -> dict[str, list[str]]:
    """The config groups and the options of each, from the files in conf/."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(CONF.iterdir())
        if folder.is_dir()
    }


def chosen_options(overrides: Sequence[str], more: Mapping[str, Any]) -> dict[str, str]:
    """The option of each config group under these overrides, then `more`."""
    options = dict(_default_options())
    for override in _parse(overrides):
        if override.key_or_group in options and override.package is None:
            options[override.key_or_group] = str(override.value())
    return options | {key: str(value) for key, value in more.items() if key in options}


def override_keys(overrides: Sequence[str]) -> set[str]:
    """The keys that a command line's overrides set."""
    return {override.key_or_group for override in _parse(overrides)}


@cache
def register() -> None:
    """Tell Hydra the typed bases and the resolver; once a process."""
    # The only imports against the flow of data: the registries are the (torch-free) catalogues of
    # what methods and tasks can be told, and keeping that beside each makes a new one one file.
    from spam_lab.optim.registry import methods
    from spam_lab.tasks.registry import tasks

    register_resolver()
    store = ConfigStore.instance()
    store.store(name="base_command", node=schema.CommandConfig)
    for field in dataclasses.fields(schema.CommandConfig):
        base = field.default_factory
        if isinstance(base, type) and field.name not in ("optimizer", "task"):
            store.store(group=field.name, name=f"base_{field.name}", node=base)
    for name, method in methods().items():
        store.store(group="optimizer", name=f"base_{name}", node=method.config)
    for name, task in tasks().items():
        store.store(group="task", name=f"base_{name}", node=task.config)


@cache
def _default_options() -> dict[str, str]:
    """The option of each group where nothing else is said, from conf/config.yaml."""
    defaults = OmegaConf.to_object(OmegaConf.load(CONF / "config.yaml").defaults)
    assert isinstance(defaults, list)
    known = groups()
    pairs = (pair for entry in defaults if isinstance(entry, dict) for pair in entry.items())
    return {str(group): str(option) for group, option in pairs if group in known}


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return list(OverridesParser.create().parse_overrides(list(overrides)))
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def _typed(parsed: list[Override], more: Mapping[str, Any] | None = None) -> schema.CommandConfig:
    options = groups()
    chosen: dict[str, str] = {}
    plain: list[tuple[str, Any]] = []
    special: list[str] = []
    for override in parsed:
        key = override.key_or_group
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line} is a list of values: add -m to run a grid of them"
            )
        if override.is_delete() or override.is_add() or override.package is not None:
            special.append(override.input_line or "")
        elif key in options:
            chosen[key] = str(override.value())
        else:
            plain.append((key, override.value()))
    for key, value in (more or {}).items():
        if key in options:
            chosen[key] = str(value)
        else:
            plain.append((key, value))
    for group, name in chosen.items():
        if name not in options[group]:
            raise ConfigError(
                f"{group}={name} is not known: one of {', '.join(options[group])}"
                + _nearest(name, options[group])
            )
    choice = tuple(sorted(chosen.items()))
    known = _references(choice, tuple(special))
    # What others are worked out from is composed with; the rest is set in the result.
    deciding = {key for key, value in plain if known.decides_others(key) or is_scaled(value)}
    decided = [pair for pair in plain if pair[0] in deciding]
    rest = [pair for pair in plain if pair[0] not in deciding]
    if all(isinstance(value, SCALAR) for _, value in decided):
        base = _settled(choice, tuple(special), tuple(decided))
        settled = with_settings(base, known, rest) if base is not None else None
        if settled is not None:
            schema.check(settled)
            return settled
    return _fully(choice, tuple(special), plain)


def _fully(
    choice: tuple[tuple[str, str], ...], special: tuple[str, ...], plain: Sequence[tuple[str, Any]]
) -> schema.CommandConfig:
    """Everything through OmegaConf, as Hydra does it: slow, and right in every case."""
    command = _object(_merged(choice, special, plain))
    schema.check(command)
    return command


def _merged(
    choice: tuple[tuple[str, str], ...], special: tuple[str, ...], plain: Sequence[tuple[str, Any]]
) -> DictConfig:
    config = copy.deepcopy(_composed(choice, special))
    for key, value in plain:
        _set(config, key, value)
    return config


@cache
def _settled(
    choice: tuple[tuple[str, str], ...],
    special: tuple[str, ...],
    decided: tuple[tuple[str, Any], ...],
) -> schema.CommandConfig | None:
    """The typed config to set the rest in; None where it needs the rest to make sense."""
    try:
        return _object(_merged(choice, special, decided))
    except ConfigError:
        return None


@cache
def _references(choice: tuple[tuple[str, str], ...], special: tuple[str, ...]) -> References:
    return references(_composed(choice, special))


@cache
def _composed(chosen: tuple[tuple[str, str], ...], special: tuple[str, ...]) -> DictConfig:
    """The config of a choice of options, unresolved: from parts, or whole where only that is right.

    With `special` overrides (Hydra's +, ~ and @) it is composed whole, and where that is refused,
    the refusal is Hydra's own.
    """
    if chosen and not special and not _default_groups_are_changed():
        parts = {group: _part(group, name) for group, name in chosen}
        known = {group: part for group, part in parts.items() if part is not None}
        if len(known) == len(parts):
            return with_parts(_composed((), ()), known)
    return _by_hydra("config", [*(f"{group}={name}" for group, name in chosen), *special])


@cache
def _part(group: str, name: str) -> DictConfig | None:
    """One option of a group; None where it says anything of another group, or is refused."""
    try:
        option = _by_hydra(f"{group}/{name}", [])
        return typed_part(group, option) if keeps_to(group, option) else None
    except (ConfigError, OmegaConfBaseException):
        return None


@cache
def _default_groups_are_changed() -> bool:
    """Whether conf/config.yaml itself sets values in a group, over whatever option is chosen."""
    return not OmegaConf.load(CONF / "config.yaml").keys().isdisjoint(groups())


def _by_hydra(name: str, overrides: list[str]) -> DictConfig:
    """What Hydra composes for a config of conf/.

    Raises:
        ConfigError: it is refused.
    """
    register()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return hydra_compose(name, overrides=overrides)
    except ConfigCompositionException as error:
        lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines()]
        raise ConfigError(" ".join(dict.fromkeys(filter(None, lines)))) from None
    except HydraException as error:
        raise ConfigError(" ".join(str(error).split())) from None


def _set(config: DictConfig, key: str, value: Any) -> None:
    """Merge one override as Hydra does."""
    try:
        OmegaConf.update(config, key, value, merge=True)
    except (ConfigKeyError, ConfigAttributeError):
        known = _leaves(config)
        raise ConfigError(f"{key}={value}: there is no such key{_hint(key, known)}") from None
    except ValidationError as error:
        expected = str(error).splitlines()[0]
        raise ConfigError(f"{key}={value} has the wrong type: {expected}") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}={value}: {str(error).splitlines()[0]}") from None


def _object(config: DictConfig) -> schema.CommandConfig:
    try:
        command = OmegaConf.to_object(config)
    except InterpolationResolutionError as error:
        raise ConfigError(_unresolved(config, error)) from None
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from None
    assert isinstance(command, schema.CommandConfig)
    return command


def _unresolved(config: DictConfig, error: InterpolationResolutionError) -> str:
    """Say what to give where a value that is looked up by model is not in the table."""
    key = error.full_key or "a key"
    if key.startswith("optimizer."):
        name = config.optimizer.name
        return (
            f"{key} has no published value for model={config.model.name} with {name}: "
            f"give {key}=..."
        )
    return f"{key}: {str(error).splitlines()[0]}"


def _leaves(config: DictConfig) -> list[str]:
    found: list[str] = []
    for name, value in config.items_ex(resolve=False):
        if isinstance(value, DictConfig):
            found += [f"{name!s}.{rest}" for rest in _leaves(value)]
        found.append(str(name))
    return found


def _hint(key: str, known: Sequence[str]) -> str:
    hint = _nearest(key, known)
    parent = key.rpartition(".")[0]
    siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent]
    if hint or not siblings:
        return hint
    where = f"{parent} has" if parent else "the top level has"
    return f"; {where} {', '.join(siblings)}"


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""
