"""What a parameter is for and in which layer, told from its name: the five kinds of Table 4.

It promises a kind other than "other" for every weight of LLaMA, GPT-NeoX and OPT, and of families
that name their modules as these do.
"""

from __future__ import annotations

import re

from torch import nn

KINDS = ("embedding", "attention", "ffn", "norm", "head", "other")

# In this order: the norms are named inside or beside attention and feed-forward blocks, and
# `embed_out` is GPT-NeoX's name for its head.
_PATTERNS = (
    ("norm", r"norm"),
    ("head", r"lm_head|embed_out"),
    ("embedding", r"embed|wte|wpe"),
    ("attention", r"attn|attention"),
    ("ffn", r"mlp|fc1|fc2|ffn|feed_forward"),
)
_KIND_OF = tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)


def module_kind(name: str) -> str:
    """The kind of the parameter `name`, one of KINDS; of every weight and every bias."""
    for kind, pattern in _KIND_OF:
        if pattern.search(name):
            return kind
    return "other"


def module_layer(name: str) -> int | None:
    """The layer of the parameter `name`, counted from 0; None outside the layers."""
    found = re.search(r"\.(\d+)\.", name)
    return None if found is None else int(found[1])


def named_kinds(model: nn.Module) -> list[tuple[str, str, nn.Parameter]]:
    """(name, kind, parameter) of every trainable parameter, in the model's order."""
    return [
        (name, module_kind(name), parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
