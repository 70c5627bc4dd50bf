"""Every task by name: its typed config and how it is opened.

This module owns the registry and the contract between a task and the loop. It promises that
discovering all of them loads neither torch nor any library of a task's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from spam_lab.config.catalogue import Catalogue
from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import RunConfig, TaskConfig

if TYPE_CHECKING:
    from torch import Tensor, device
    from torch.nn import Module


class TaskBatch(Protocol):
    """The rows of one step, or of one forward pass."""

    @property
    def weight(self) -> int:
        """What the sum of the losses is divided by for their mean: tokens predicted, or rows."""
        ...

    def to(self, device: device | str) -> TaskBatch:
        """The same batch on `device`."""
        ...

    def split(self, size: int) -> Sequence[TaskBatch]:
        """Batches of `size` rows, in order; the last one may have fewer."""
        ...

    def share(self, rank: int, size: int) -> TaskBatch:
        """The rows of one of `size` ranks; every rank gets equally many."""
        ...


class Task(Protocol):
    """A task in memory: a model, an endless sequence of global batches, and how both are judged.

    Attributes:
        model: freshly built, in training mode, in the dtype of `precision.weights`.
        validation: always the same batches, whatever the seed.
        unit: what a step goes through, as a plural: tokens, images, windows.
        units_per_step: how many of them.

    A task whose steps differ in cost has `cycle` besides: after how many they do so again, from the
    first step on.
    """

    model: Module
    validation: Sequence[TaskBatch]
    unit: str
    units_per_step: int

    def next_batch(self) -> TaskBatch:
        """The next global batch, on the CPU. DataError if it cannot be read."""
        ...

    def loss(self, module: Module, batch: TaskBatch) -> Tensor:
        """The sum of the losses of the batch, a float32 scalar with its graph.

        `module` is the model, or what wraps it where several ranks train it.
        """
        ...

    def score(self, model: Module, batch: TaskBatch) -> Tensor:
        """What validation adds up over batches, float64 [K]. Without gradients, in eval mode."""
        ...

    def summary(self, totals: Sequence[float]) -> dict[str, float]:
        """Metrics by name (`validation/...`) from the sums of `score` over the validation set.

        One that is not finite ends the run as diverged.
        """
        ...

    def updated(self, step: int) -> None:
        """Called after the update of every step, with its number from 1."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What continues the batches and all else the task keeps; for `weights_only` files."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`. DataError if it is of other data."""
        ...

    def close(self) -> None:
        """Stop reading ahead. May be called twice; no batch can be had afterwards."""
        ...


Open = Callable[[RunConfig, str], Task]
Check = Callable[[RunConfig], None]
_Open = TypeVar("_Open", bound=Open)


@dataclass(frozen=True)
class TaskKind:
    """A registered task.

    Attributes:
        name: as in `task.name`.
        config: the dataclass of its config group.
        open: (run, where to build the model) to the task.
        check: refuses a run whose data or weights are not at hand, before it is submitted, with
            the package or path that would provide them and the command: ConfigError.
    """

    name: str
    config: type[TaskConfig]
    open: Open
    check: Check


_KINDS: Catalogue[TaskKind] = Catalogue("spam_lab.tasks", "tasks")


def _accept(config: RunConfig) -> None:
    """The check of a task whose worker says by itself what is missing."""


def task(name: str, config: type[TaskConfig], check: Check = _accept) -> Callable[[_Open], _Open]:
    """Register the decorated function as what opens a task. See `TaskKind` for the arguments.

    Raises:
        ValueError: if another function has the name.
    """

    def register(open_task: _Open) -> _Open:
        _KINDS.add(name, TaskKind(name, config, open_task, check))
        return open_task

    return register


def tasks() -> dict[str, TaskKind]:
    """Every task, by name, in order of names."""
    return _KINDS.all()


def find(config: TaskConfig) -> TaskKind:
    """The task that `config` names.

    Raises:
        ConfigError: for an unknown `task.name`, with the nearest known ones.
    """
    return _KINDS.find("task.name", config.name)


def open_task(config: RunConfig, place: str) -> Task:
    """The task of a run, its model built at `place` ("cpu", "cuda:0").

    Raises:
        ConfigError: its config cannot be built.
        DataError: its data cannot be reached.
    """
    return find(config.task).open(config, place)


def require_ready(configs: Sequence[RunConfig]) -> None:
    """Refuse runs whose data or weights are not at hand here.

    Raises:
        ConfigError: with every reason once.
    """
    refused = []
    for config in {repr(config.task): config for config in configs}.values():
        try:
            find(config.task).check(config)
        except ConfigError as error:
            refused.append(str(error))
    if refused:
        raise ConfigError("\n".join(dict.fromkeys(refused)))
