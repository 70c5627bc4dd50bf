"""A composed config once resolved, in which single values are then set, thousands in seconds.

Resolving the interpolations of a config takes tens of milliseconds, and the runs of a plan differ
in a few values that no interpolation looks at. Those are set on a copy of the typed result, with
the conversion OmegaConf itself would make. It promises the very config that a full composition
gives, or None where it cannot promise that.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spam_lab.config.schema import CommandConfig

SCALAR = (bool, int, float, str, type(None))

Setting = tuple[str, Any]
"""A dotted key and its value."""


@dataclasses.dataclass(frozen=True)
class References:
    """What the interpolations of a config look at.

    Attributes:
        looked_at: keys, or prefixes of keys, that decide other values in a way not followed here.
        followers: for a key, the keys whose whole value is `${key}`.
    """

    looked_at: frozenset[str]
    followers: dict[str, tuple[str, ...]]

    def decides_others(self, key: str) -> bool:
        """Whether setting `key` may change what another key resolves to, followers apart."""
        return any(
            key == seen or key.startswith(f"{seen}.") or seen.startswith(f"{key}.")
            for seen in self.looked_at
        )


def references(config: DictConfig) -> References:
    """The references of an unresolved config."""
    looked_at = {"scale"}  # the resolver `scaled` reads it from the root
    followers: dict[str, list[str]] = {}
    for key, raw in _interpolations(config, ""):
        whole = re.fullmatch(r"\$\{([A-Za-z_][\w.]*)\}", raw)
        if whole:
            followers.setdefault(whole[1], []).append(key)
        else:
            looked_at.update(re.findall(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", raw))
            if "${." in raw:
                looked_at.add(key.partition(".")[0])
    return References(frozenset(looked_at), {key: tuple(found) for key, found in followers.items()})


def with_settings(
    base: CommandConfig, known: References, settings: Sequence[Setting]
) -> CommandConfig | None:
    """A copy of `base` with these values set, in order; None where only composing can tell.

    `base` is the typed config of the same command without these settings.
    """
    given = [key for key, _ in settings]
    pairs = []
    for key, value in settings:
        if known.decides_others(key) or not isinstance(value, SCALAR) or _refers(value):
            return None
        pairs.append((key, value))
        for follower in known.followers.get(key, ()):
            if follower in known.followers or known.decides_others(follower):
                return None
            if follower not in given:
                pairs.append((follower, value))
    result = copy.deepcopy(base)
    for key, value in pairs:
        *parents, last = key.split(".")
        place: Any = result
        for name in parents:
            place = getattr(place, name, None)
        if not dataclasses.is_dataclass(place) or not hasattr(place, last):
            return None
        if dataclasses.is_dataclass(getattr(place, last)):
            return None
        try:
            setattr(place, last, _converted(type(place), last, value))
        except OmegaConfBaseException:
            return None
    return result


def _refers(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _converted(owner: type, name: str, value: Any) -> Any:
    """The value as the typed field keeps it."""
    typed = _typed(owner)
    typed[name] = value
    return typed[name]


@cache
def _typed(owner: type) -> DictConfig:
    typed = OmegaConf.structured(owner)
    assert isinstance(typed, DictConfig)
    return typed


def _interpolations(config: DictConfig | ListConfig, prefix: str) -> Iterator[tuple[str, str]]:
    """Every value that is an unresolved text, with its key."""
    keys: list[Any] = list(config.keys() if isinstance(config, DictConfig) else range(len(config)))
    for key in keys:
        node = config._get_node(key)
        name = f"{prefix}{key}"
        if isinstance(node, DictConfig | ListConfig) and not node._is_interpolation():
            if not (node._is_none() or node._is_missing()):
                yield from _interpolations(node, f"{name}.")
        elif node is not None and not isinstance(node, list) and node._is_interpolation():
            yield name, str(node._value())
