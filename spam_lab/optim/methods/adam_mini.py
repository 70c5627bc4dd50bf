"""Adam-mini as a method of the lab: its hyperparameters, and the block of every parameter.

This module owns the rule that gives each parameter of LLaMA, GPT-NeoX and OPT its kind of block. It
promises the authors' partition (version 1.1.1) for LLaMA's names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from spam_lab.config.fields import number, text
from spam_lab.config.schema import OptimizerConfig
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer

_QUERY_OR_KEY = re.compile(r"q_proj|k_proj|query|key")
_BY_ROW = ("embedding", "attention", "ffn", "head")


@dataclass
class AdamMiniConfig(OptimizerConfig):
    """Adam-mini (Zhang et al.): one second moment a block of weights."""

    name: str = text("adam_mini", doc="registry name of the method")
    beta1: float = number(
        0.9, low=0, high=1, high_open=True, doc="decay of the first moment (paper: 0.9)"
    )
    beta2: float = number(
        0.999, low=0, high=1, high_open=True, doc="decay of the second moment (official: 0.999)"
    )
    eps: float = number(
        1e-8, low=0, doc="added to the bias-corrected root of the second moment (official: 1e-8)"
    )
    heads: int = number(MISSING, low=1, doc="attention heads of the model; a query or key block")


def block_of(name: str, kind: str) -> str:
    """The kind of block ("head", "row", "tensor", "entry") of the parameter `name`.

    A bias is plain Adam. Query and key weights have a block a head; embedding, head, feed-forward,
    value and output weights a block an output row; norms, and whatever has no kind, one block.

    GPT-NeoX fuses query, key and value into one matrix, `query_key_value`, that holds a head's
    three parts one after the other. As in the authors' code, which knows it by "query", each part
    of each head is a block; its value part therefore has a block a head and not a row. Where the
    authors' code knows no name (`out_proj`, `fc1` and `fc2` of OPT, `dense` of GPT-NeoX) and would
    give the whole matrix one number, the kind decides here, as the paper means it.
    """
    if name.endswith("bias"):
        return "entry"
    if kind == "attention" and _QUERY_OR_KEY.search(name):
        return "head"
    return "row" if kind in _BY_ROW else "tensor"


@method(
    "adam_mini",
    AdamMiniConfig,
    source="Zhang et al. 2024, arXiv 2406.16793, official version 1.1.1; this project's",
)
def build(groups: Groups, config: AdamMiniConfig, seed: int) -> Optimizer:
    """Adam-mini, with one group for each kind of block of a kind. Nothing is random: no seed.

    Weight decay reaches every parameter, as in all methods of this lab; the authors' code spares
    norms and biases.

    Raises:
        ValueError: if `heads` does not divide a query or key matrix.
    """
    from spam_lab.optim.baselines.adam_mini import BLOCKS, AdamMini

    cut = []
    for group in groups:
        for block in BLOCKS:
            params = [
                (name, param)
                for name, param in group["params"]
                if block_of(name, group["kind"]) == block
            ]
            if params:
                cut.append({**group, "params": params, "block": block})
    return AdamMini(
        cut,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        heads=config.heads,
    )
