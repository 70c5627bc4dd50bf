"""A catalogue: what the modules of a package register under names, found by importing them all.

It owns what the registries of optimizers and of tasks have in common, and promises that a name is
taken once, and that one which is not there is refused with those that are near.
"""

from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches
from typing import Generic, TypeVar

from spam_lab.config.fields import ConfigError, Problem

Entry = TypeVar("Entry")


class Catalogue(Generic[Entry]):
    """Entries by name.

    Args:
        package: whose modules register when they are imported.
        noun: what an entry is, as a plural, in errors.
    """

    def __init__(self, package: str, noun: str) -> None:
        self._package, self._noun = package, noun
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> None:
        """Register an entry.

        Raises:
            ValueError: if another has the name.
        """
        if name in self._entries:
            raise ValueError(f"two {self._noun} are named {name!r}")
        self._entries[name] = entry

    def all(self) -> dict[str, Entry]:
        """Every entry, in order of names."""
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
        return dict(sorted(self._entries.items()))

    def find(self, key: str, name: str) -> Entry:
        """The entry that the config's `key` names.

        Raises:
            ConfigError: for an unknown name, with the nearest known ones.
        """
        known = self.all()
        if name not in known:
            near = get_close_matches(name, known) or list(known)
            raise ConfigError.of([Problem(key, name, f"try {', '.join(near)}")])
        return known[name]
