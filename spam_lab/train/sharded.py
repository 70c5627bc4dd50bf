"""A model too large for one device: each rank holds and updates its rows of every tensor.

It owns torch's FSDP2 (`fully_shard`) for the forward and backward pass, and the optimizer's side of
it: the optimizer sees plain tensors, the rank's shards, and so runs with its own kernels, unaware
of the others. That is right for methods whose update is elementwise, which is what the registry's
`coupling` is for. It promises states in the format of one process, in both directions.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from spam_lab.models.kinds import module_kind
from spam_lab.train.distributed import World
from spam_lab.train.replica import Whole


class Sharded(Whole):
    """One rank's part of a model, by torch's FSDP2.

    Every micro-batch reduces its gradients: keeping them until the last would take whole ones.
    """

    def __init__(self, model: nn.Module, world: World, device: torch.device) -> None:
        mesh = init_device_mesh(device.type, (world.size,))
        for block in blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        super().__init__(model)
        self._world, self._device = world, device
        # It averages over ranks, and each rank's loss is its part of the global mean: their sum.
        self.seed = torch.tensor(float(world.size), device=device)
        # One leaf a parameter, in the shard's own memory.
        self._shards = {
            name: (cast(DTensor, parameter), nn.Parameter(_shard(parameter)))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def named(self) -> list[tuple[str, str, nn.Parameter]]:
        """This rank's shards, as plain parameters."""
        return [(name, module_kind(name), shard) for name, (_, shard) in self._shards.items()]

    def grad_norm(self) -> Tensor:
        """The joint L2 norm of the gradients of all ranks."""
        norm = super().grad_norm()
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def step(self, optimizer: Optimizer) -> None:
        """One update of this rank's shards."""
        for parameter, shard in self._shards.values():
            shard.data = _shard(parameter)
            gradient = parameter.grad
            shard.grad = None if gradient is None else _shard(gradient)
        optimizer.step()

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Forget the gradients, of shards and of the model."""
        super().zero_grad(optimizer)
        self.model.zero_grad(set_to_none=True)

    def evaluated(self) -> None:
        """Free the weights that a forward pass gathers for a backward pass."""
        cast(FSDPModule, self.model).reshard()

    def reduced(self, table: Tensor, entries: list[int]) -> tuple[list[list[float]], list[int]]:
        """Losses and counts are sums over ranks; the gradient norm is of all already."""
        norms = table[:, 1].clone()
        table = self._world.total(table)
        table[:, 1] = norms
        return table.tolist(), self._world.total(torch.tensor(entries)).tolist()

    def state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Model and optimizer gathered tensor by tensor; whole on rank 0, on its CPU."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return {
            "model": get_model_state_dict(self.model, options=options),
            "optimizer": self._gathered(optimizer),
        }

    def load_state(self, state: dict[str, Any], optimizer: Optimizer) -> None:
        """Continue from a whole state: every rank has read it and keeps its own rows."""
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, state["model"], options=options)
        optimizer.load_state_dict(self._scattered(state["optimizer"], optimizer))

    def _gathered(self, optimizer: Optimizer) -> dict[str, Any]:
        content = optimizer.state_dict()
        # A rank whose shard of a tensor is empty may have no state of it, yet must take part.
        known = self._world.from_main(
            {
                index: {name: _layout(value) for name, value in state.items()}
                for index, state in content["state"].items()
            }
        )
        whole: dict[int, dict[str, Any]] = {}
        for index, parameter in enumerate(self._in_order(optimizer)):
            for name, layout in known.get(index, {}).items():
                value = content["state"].get(index, {}).get(name)
                if layout is not None:
                    if value is None:
                        value = torch.empty_like(_shard(parameter), dtype=layout)
                    value = _whole(value, parameter)
                if self._world.is_main:
                    whole.setdefault(index, {})[name] = value
        return {**content, "state": whole}

    def _scattered(self, content: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
        order = self._in_order(optimizer)
        return {
            **content,
            "state": {
                index: {name: self._part(value, order[index]) for name, value in state.items()}
                for index, state in content["state"].items()
            },
        }

    def _part(self, value: Any, parameter: DTensor) -> Any:
        """This rank's rows of a whole tensor; anything else as it is."""
        if _layout(value) is None:
            return value
        mesh, placements = parameter.device_mesh, parameter.placements
        # No rank sends anything: each has read the whole.
        part = distribute_tensor(value.to(self._device), mesh, placements, src_data_rank=None)
        return part.to_local().clone()

    def _in_order(self, optimizer: Optimizer) -> list[DTensor]:
        """The model's parameters in the order in which the optimizer numbers its own."""
        of = {id(shard): parameter for parameter, shard in self._shards.values()}
        return [of[id(shard)] for group in optimizer.param_groups for shard in group["params"]]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, each gathered on its own: the longest list of modules in it."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def _layout(value: Any) -> torch.dtype | None:
    """The dtype of a state that has one number a weight; None for counters and plain values."""
    return value.dtype if isinstance(value, Tensor) and value.dim() else None


def _shard(tensor: Tensor) -> Tensor:
    """What this rank holds of a sharded tensor; not a copy."""
    return cast(DTensor, tensor.detach()).to_local()


def _whole(shard: Tensor, parameter: DTensor) -> Tensor:
    """The tensor of which every rank has a shard, cut as the parameter is; on the CPU."""
    cut = DTensor.from_local(
        shard,
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    return cut.full_tensor().cpu()
