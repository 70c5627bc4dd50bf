"""The memory of a run: what its weights and its optimizer take, without training it.

It promises the sizes of the run's own config at its own scale, whatever the machine has: nothing
of the model is allocated, unless the method needs real values; then two shallow models are.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from spam_lab.config.schema import ModelConfig, RunConfig
from spam_lab.models.build import build_model
from spam_lab.models.kinds import named_kinds
from spam_lab.optim.memory import Memory, Named, Shape, account, extended
from spam_lab.optim.registry import build_optimizer, find, prepare_model


def run_memory(config: RunConfig) -> Memory:
    """Bytes of weights and optimizer state of the run that `config` describes.

    Counted on the meta device. A method that cannot run there (it looks at values, as a selection
    by magnitude does) runs on a CPU at full width with one layer and with two, and what the second
    layer added is added for every further one.
    """
    try:
        with torch.device("meta"):
            return account(config.optimizer, _on_meta(config.model, config), named_kinds)
    except RuntimeError:  # NotImplementedError and torch's own errors for meta tensors are this too
        layers = config.model.num_hidden_layers
        one, two = (on_cpu(config, count) for count in (1, 2))
        return extended(one, two, layers)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: on a GPU, of its memory; on a CPU, resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def run_shapes(config: RunConfig) -> tuple[tuple[Shape, ...], bool]:
    """Name, kind and size of every tensor that the run trains, and whether its optimizer compiles.

    The model is as the method prepares it: a run of LoRA trains its adapters.
    """
    with torch.device("meta"):
        model = _on_meta(config.model, config)
        prepare_model(config.optimizer, model, config.seed)
        named = named_kinds(model)
        optimizer = build_optimizer(config.optimizer, named, config.seed)
    shapes = tuple((name, kind, tuple(parameter.shape)) for name, kind, parameter in named)
    return shapes, hasattr(optimizer, "compile")


def run_parameters(config: RunConfig, device: torch.device) -> Callable[[], Named] | None:
    """What makes the run's real parameters; None where its method trains the model as it is."""
    if find(config.optimizer).prepare is None:
        return None

    def make() -> Named:
        model = build_model(
            config.model,
            sequence_length=config.data.sequence_length,
            seed=config.seed,
            dtype=getattr(torch, config.precision.weights),
            device=device,
            stabilizer=config.stabilizer,
        )
        prepare_model(config.optimizer, model, config.seed)
        return named_kinds(model)

    return make


def on_cpu(config: RunConfig, layers: int) -> Memory:
    """The account of a real model with so many layers, whose weights are ones."""
    with torch.device("meta"):
        model = _on_meta(replace(config.model, num_hidden_layers=layers), config)
    real = {
        weight: nn.Parameter(torch.ones_like(weight, device="cpu")) for weight in model.parameters()
    }
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, real[weight])
    return account(config.optimizer, model, named_kinds)


def _on_meta(model: ModelConfig, config: RunConfig) -> nn.Module:
    return build_model(
        model,
        sequence_length=config.data.sequence_length,
        seed=config.seed,
        dtype=getattr(torch, config.precision.weights),
        device="meta",
        stabilizer=config.stabilizer,
    )
