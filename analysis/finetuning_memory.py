"""The memory that fine-tuning methods take at the paper's model, LLaMA2-7B in bfloat16, counted.

Each method's own code steps over models of that shape with one layer and with two, and what the
second layer added is added for every further one (`spam_lab.optim.memory`). Nothing is allocated,
on the meta device, unless a method needs values. Bytes are those of weights, gradients and
optimizer state, without activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from spam_lab.config.compose import compose_run
from sweeps.table15 import METHODS

if TYPE_CHECKING:
    from spam_lab.config.schema import RunConfig
    from spam_lab.optim.memory import Memory

LLAMA2_7B: Mapping[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Bytes:
    """One account: weights, the gradients of the trained ones, and optimizer state."""

    weights: int
    gradients: int
    state: int

    @property
    def total(self) -> int:
        """Weights and state, as the paper's Table 3 counts."""
        return self.weights + self.state


@cache
def at_paper_size(method: str) -> Bytes:
    """The account of one of Table 15's rows; seconds each."""
    config = compose_run(("scale=paper", "precision=bf16", "task=finetuning"), METHODS[method])
    counted = _count(config)
    return Bytes(counted.weights, counted.trained, counted.optimizer)


def _count(config: RunConfig) -> Memory:
    # Late: it loads torch, which no other part of an exhibit needs.
    import torch

    from spam_lab.models.kinds import named_kinds
    from spam_lab.optim.memory import account, extended

    def counted(layers: int, device: str) -> Memory:
        with torch.device(device):
            return account(config.optimizer, _model(config, layers, device), named_kinds)

    layers = LLAMA2_7B["num_hidden_layers"]
    try:
        one, two = (counted(count, "meta") for count in (1, 2))
    except RuntimeError:  # NotImplementedError and torch's own errors for meta tensors are this too
        one, two = (counted(count, "cpu") for count in (1, 2))
    return extended(one, two, layers)


def _model(config: RunConfig, layers: int, device: str) -> Any:
    """A model of LLaMA2-7B's shape, as the task makes it ready; real weights are ones."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from spam_lab.tasks.finetuning.fine_tuning import freeze_all_but_blocks

    shape = AutoConfig.for_model("llama", **{**LLAMA2_7B, "num_hidden_layers": layers})
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = build(shape, dtype=torch.bfloat16)
    if device != "meta":
        model = model.to_empty(device=device)
        for weight in model.parameters():
            weight.detach().fill_(1)
    task: Any = config.task
    if task.trained == "blocks":
        freeze_all_but_blocks(model)
    return model
