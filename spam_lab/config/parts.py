"""A config put together from options that were composed one by one.

Composing reads and merges every file of every group, 0.15 s for each choice of options, and the
exhibits of a scale make a hundred choices out of thirty options. Where an option says something of
its own group alone, a choice is the default config with the groups that it names replaced. This
promises the very config that Hydra composes for the choice, or None where it cannot promise that.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache

from omegaconf import DictConfig, OmegaConf

from spam_lab.config.schema import CommandConfig


def keeps_to(group: str, option: DictConfig) -> bool:
    """Whether an option, composed alone, says something of its own group only."""
    return list(option) == [group]


def typed_part(group: str, option: DictConfig) -> DictConfig:
    """The group as an option leaves it: what every command has, and the option merged into it."""
    root = copy.deepcopy(_bare())
    root.merge_with(option)
    part = root[group]
    assert isinstance(part, DictConfig)
    return part


def with_parts(default: DictConfig, parts: Mapping[str, DictConfig]) -> DictConfig:
    """A copy of the `default` config with these groups in place of its own."""
    config = copy.deepcopy(default)
    for group, part in parts.items():
        config[group] = part
    return config


@cache
def _bare() -> DictConfig:
    root = OmegaConf.structured(CommandConfig)
    assert isinstance(root, DictConfig)
    return root
