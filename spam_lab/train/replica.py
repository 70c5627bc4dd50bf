"""The model as one rank trains it: whole, as one of equal copies, or as a shard of it.

It owns what differs between the three: how gradients of all ranks meet, what the optimizer steps
over, and how a state is read and written. It promises that gradients are those of the global batch,
and that a state says nothing of how many ranks wrote it. `sharded` has the third; this file is what
one process needs, and DistributedDataParallel for copies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spam_lab.config.fields import ConfigError, Problem
from spam_lab.config.schema import RunConfig
from spam_lab.models.build import parameter_count
from spam_lab.models.kinds import named_kinds
from spam_lab.optim.registry import find
from spam_lab.train.distributed import World

if TYPE_CHECKING:
    from torch.nn.parallel import DistributedDataParallel

LARGE = 1_000_000_000
"""Weights from which on `train.sharding=auto` shards: with Adam's moments and gradients they take
16 GB in float32, a fifth of a large GPU before the first activation."""


class Whole:
    """A model that one process trains alone.

    Attributes:
        model: what is saved, and read for validation.
        module: what the forward pass of training goes through.
        seed: the gradient of the loss with respect to itself; None is 1.
        parameters: the trainable ones, whose gradients are clipped.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = self.module = model
        self.seed: Tensor | None = None
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def named(self) -> list[tuple[str, str, nn.Parameter]]:
        """What the optimizer trains: (name, kind, parameter)."""
        return named_kinds(self.model)

    def backward_of(self, last: bool) -> AbstractContextManager[object]:
        """The forward and backward pass of a micro-batch; ranks meet in the step's last."""
        return contextlib.nullcontext()

    def grad_norm(self) -> Tensor:
        """The joint L2 norm of all gradients."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def step(self, optimizer: Optimizer) -> None:
        """One update from the gradients."""
        optimizer.step()

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Forget the gradients."""
        optimizer.zero_grad(set_to_none=True)

    def evaluated(self) -> None:
        """Tidy up after forward passes that no backward pass followed."""

    def reduced(self, table: Tensor, entries: list[int]) -> tuple[list[list[float]], list[int]]:
        """Rows of (loss, gradient norm, counts...) and entries examined, of all ranks."""
        return table.tolist(), entries

    def state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Model and optimizer as a checkpoint has them; complete on rank 0."""
        return {"model": self.model.state_dict(), "optimizer": optimizer.state_dict()}

    def load_state(self, state: dict[str, Any], optimizer: Optimizer) -> None:
        """Continue from `state`, whichever kind of replica it was taken of."""
        self.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])


class Copied(Whole):
    """One of equal copies, held equal by torch's DistributedDataParallel."""

    def __init__(self, model: nn.Module, world: World, device: torch.device) -> None:
        from torch.nn.parallel import DistributedDataParallel

        super().__init__(model)
        self._world = world
        # Buffers are the angles of position embeddings: constant, so once is enough.
        self._ddp: DistributedDataParallel = DistributedDataParallel(
            model, forward_sync_buffers=False
        )
        self.module = self._ddp
        # It averages over ranks, and each rank's loss is its part of the global mean: their sum.
        self.seed = torch.tensor(float(world.size), device=device)

    def backward_of(self, last: bool) -> AbstractContextManager[object]:
        """Gradients of all but the last micro-batch stay on their rank."""
        return contextlib.nullcontext() if last else self._ddp.no_sync()

    def reduced(self, table: Tensor, entries: list[int]) -> tuple[list[list[float]], list[int]]:
        """The loss is the sum of the ranks' parts; all else is the same on every rank."""
        table = table.clone()
        table[:, 0] = self._world.total(table[:, 0])
        return table.tolist(), entries


Make = Callable[[nn.Module], Whole]


def choose_replica(config: RunConfig, world: World, device: torch.device) -> tuple[Make, str]:
    """How this world trains `config`: what makes a replica of a model, and where to build that.

    A model to be sharded is built on the CPU, so that no GPU ever holds all of it.

    Raises:
        ConfigError: where several ranks cannot train this run, or not the way it asks for.
    """
    if world.size == 1:
        return Whole, str(device)
    if found := _problems(config, world):
        raise ConfigError.of(found)
    if is_sharded(config):
        from spam_lab.train.sharded import Sharded

        return lambda model: Sharded(model, world, device), "cpu"
    return lambda model: Copied(model, world, device), str(device)


def is_sharded(config: RunConfig) -> bool:
    """Whether several ranks would share the weights of this run, rather than copy them."""
    if config.train.sharding != "auto":
        return config.train.sharding == "fsdp"
    if find(config.optimizer).coupling(config.optimizer):
        return False
    if not config.pretrains:
        return False  # the models of the other tasks fit on one GPU
    length = config.data.sequence_length
    return parameter_count(config.model, length, config.stabilizer) >= LARGE


def _problems(config: RunConfig, world: World) -> list[Problem]:
    found = []
    batch, optimizer = config.batch_size, config.optimizer
    if world.size > batch:
        allowed = f"at least {world.size}, a row for each of the {world.size} ranks"
        group = "data" if config.pretrains else "task"
        found.append(Problem(f"{group}.batch_size", batch, allowed))
    if (dropout := getattr(optimizer, "dropout", 0.0)) > 0:
        allowed = "0 on several ranks: what is dropped would depend on their number"
        found.append(Problem("optimizer.dropout", dropout, allowed))
    if config.train.sharding == "fsdp" and (coupling := find(optimizer).coupling(optimizer)):
        allowed = f"train.sharding=ddp, because {optimizer.name} cannot be sharded: {coupling}"
        found.append(Problem("train.sharding", "fsdp", allowed))
    elif config.observe.spikes and is_sharded(config):
        allowed = "ddp on several ranks wherever observe.spikes=true: it needs whole tensors"
        found.append(Problem("train.sharding", config.train.sharding, allowed))
    return found
