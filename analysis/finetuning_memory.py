"""The memory that fine-tuning methods take at the paper's model, LLaMA2-7B in bfloat16, counted by
the laboratory's account (`spam_lab.train.pretrained_memory`). Bytes are those of weights, gradients
and optimizer state, without activations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spam_lab.config.compose import compose_run
from spam_lab.config.identity import cell_id
from sweeps.table15 import METHODS

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


def at_paper_size(method: str, known: dict[str, Any]) -> Bytes:
    """The account of one of Table 15's rows; what was counted is in `known`, and is added to it."""
    config = compose_run(("scale=paper", "precision=bf16", "task=finetuning"), METHODS[method])
    key = f"llama2_7b {cell_id(config)}"
    if key not in known:
        # Late: it loads torch, which no other part of an exhibit needs.
        from spam_lab.train.pretrained_memory import pretrained_memory

        counted = pretrained_memory(config, "llama", LLAMA2_7B)
        own = Bytes(counted.weights, counted.trained, counted.optimizer)
        known[key] = dataclasses.asdict(own)
    return Bytes(**known[key])
