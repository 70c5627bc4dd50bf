"""Every optimizer by name: its typed hyperparameters and its builder.

This module owns the registry. A method is one file in `spam_lab/optim/methods/`: a subclass of
`OptimizerConfig` and a build function under `@method`. It promises that discovering all of them
loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from spam_lab.config.catalogue import Catalogue
from spam_lab.config.schema import OptimizerConfig

if TYPE_CHECKING:
    from torch.nn import Module, Parameter
    from torch.optim import Optimizer

KINDS = ("embedding", "attention", "ffn", "norm", "head", "other")
"""What a parameter can be: each kind that occurs becomes one parameter group, in this order."""

Groups = list[dict[str, Any]]
Build = Callable[[Groups, Any, int], "Optimizer"]
Prepare = Callable[["Module", Any, int], None]
Coupling = Callable[[Any], str]
_Build = TypeVar("_Build", bound=Build)


def whole_tensors(config: OptimizerConfig) -> str:
    """The coupling of a method that does not say: it may look at anything."""
    return "its update looks at more than one entry at a time"


def elementwise(config: OptimizerConfig) -> str:
    """The coupling of a method whose update of an entry depends on nothing but that entry."""
    return ""


@dataclass(frozen=True)
class Method:
    """A registered optimizer.

    Attributes:
        name: as in `optimizer.name`.
        config: the dataclass of its hyperparameters.
        build: `(parameter groups, config, seed)` to the optimizer.
        source: where the method is defined, and whose implementation this is; in one line.
        prepare: `(model, config, seed)` changes the model in place before its parameters are
            collected; None for a method that trains the model as it is.
        coupling: config to what makes an entry's update depend on other entries, or on its place
            among them, in a few words; "" where nothing does. Only then may ranks hold shards of
            a tensor and update each its own.
    """

    name: str
    config: type[OptimizerConfig]
    build: Build
    source: str
    prepare: Prepare | None = None
    coupling: Coupling = whole_tensors


_METHODS: Catalogue[Method] = Catalogue("spam_lab.optim.methods", "optimizers")


def method(
    name: str,
    config: type[OptimizerConfig],
    source: str = "",
    prepare: Prepare | None = None,
    coupling: Coupling = whole_tensors,
) -> Callable[[_Build], _Build]:
    """Register the decorated build function. See `Method` for the arguments.

    Raises:
        ValueError: if another function has the name.
    """

    def register(build: _Build) -> _Build:
        _METHODS.add(name, Method(name, config, build, source, prepare, coupling))
        return build

    return register


def methods() -> dict[str, Method]:
    """Every method, by name, in order of names."""
    return _METHODS.all()


def find(config: OptimizerConfig) -> Method:
    """The method that `config` names.

    Raises:
        ConfigError: for an unknown `optimizer.name`, with the nearest known ones.
    """
    return _METHODS.find("optimizer.name", config.name)


def prepare_model(config: OptimizerConfig, model: Module, seed: int) -> None:
    """Change the model as its method asks (LoRA adds adapters), before `build_optimizer`.

    Args:
        config: hyperparameters, of the class that the method registered.
        model: freshly built; changed in place.
        seed: of whatever the method draws at random.

    Raises:
        ConfigError: for an unknown `optimizer.name`, with the nearest known ones.
    """
    prepare = find(config).prepare
    if prepare is not None:
        prepare(model, config, seed)


def build_optimizer(
    config: OptimizerConfig, named: list[tuple[str, str, Parameter]], seed: int
) -> Optimizer:
    """The optimizer that `config` describes.

    Args:
        config: hyperparameters, of the class that the method registered.
        named: every parameter to train, as (name, kind, parameter).
        seed: of whatever the method draws at random.

    Returns:
        An optimizer whose groups carry their "kind", and "lr_ratio" where a group's learning rate
        is not the schedule's but a multiple of it.

    Raises:
        ConfigError: for an unknown `optimizer.name`, with the nearest known ones.
        ValueError: for an unknown kind.
    """
    return find(config).build(parameter_groups(named), config, seed)


def parameter_groups(named: list[tuple[str, str, Parameter]]) -> Groups:
    """One group for each kind that occurs, carrying it as "kind", with the parameters' names.

    Parameters that a model marks with a true attribute `no_weight_decay` are a group of their own.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for kind in KINDS:
        groups[kind, True] = {"params": [], "kind": kind}
        groups[kind, False] = {"params": [], "kind": kind, "weight_decay": 0.0}
    for name, kind, parameter in named:
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} of {name} is not allowed: one of {', '.join(KINDS)}")
        decays = not getattr(parameter, "no_weight_decay", False)
        groups[kind, decays]["params"].append((name, parameter))
    return [group for group in groups.values() if group["params"]]
