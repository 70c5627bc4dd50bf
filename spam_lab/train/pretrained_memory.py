"""The memory of a fine-tuning run on a pretrained model of a given shape, without its weights.

It promises the bytes of the method's own code: its optimizer steps over models of that shape with
one layer and with two, and what the second layer added is added for every further one. Nothing is
allocated, on the meta device, unless a method needs values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from spam_lab.config.schema import RunConfig
from spam_lab.models.kinds import named_kinds
from spam_lab.optim.memory import Memory, account, extended
from spam_lab.tasks.finetuning import FineTuningConfig
from spam_lab.tasks.finetuning.fine_tuning import freeze_all_but_blocks


def pretrained_memory(config: RunConfig, family: str, shape: Mapping[str, Any]) -> Memory:
    """Bytes of weights and optimizer state.

    Args:
        config: a run of the task finetuning; its method, precision and what it trains count.
        family: transformers' model_type.
        shape: the arguments of the family's config, `num_hidden_layers` among them.
    """

    def counted(layers: int, device: str) -> Memory:
        model = _model(config, family, {**shape, "num_hidden_layers": layers}, device)
        with torch.device(device):
            return account(config.optimizer, model, named_kinds)

    try:
        one, two = (counted(count, "meta") for count in (1, 2))
    except RuntimeError:  # NotImplementedError and torch's own errors for meta tensors are this too
        one, two = (counted(count, "cpu") for count in (1, 2))
    return extended(one, two, shape["num_hidden_layers"])


def _model(config: RunConfig, family: str, shape: Mapping[str, Any], device: str) -> nn.Module:
    """A model as the task makes it ready; real weights are ones."""
    from transformers import AutoConfig, AutoModelForCausalLM

    assert isinstance(config.task, FineTuningConfig)
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model: nn.Module = build(
            AutoConfig.for_model(family, **shape), dtype=getattr(torch, config.precision.weights)
        )
    if device != "meta":
        model = model.to_empty(device=device)
        for weight in model.parameters():
            weight.detach().fill_(1)
    if config.task.trained == "blocks":
        freeze_all_but_blocks(model)
    return model
