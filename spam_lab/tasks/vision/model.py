"""The models of Table 9, from transformers: ConvNeXt and ViT with a linear classifier.

It owns what the recipe needs beside the library: stochastic depth whose draws belong to a row of
the global batch, so that micro-batches, ranks and resumption change nothing, and the marks by which
no optimizer decays biases, norms, scales and embeddings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spam_lab.tasks.vision.config import CHANNELS, VisionConfig

EPS = 1e-6
"""Of the layer norms, as in the official code of both models."""

LAYER_SCALE = 1e-6
"""Where ConvNeXt's scale of each block starts."""


class StochasticDepth(nn.Module):
    """Drops a block's change of a row where the row's draw lies below `rate`.

    Attributes:
        draws: float [B], set before each training forward pass.
    """

    draws: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, change: Tensor) -> Tensor:
        """`change` [B, ...], kept rows divided by the chance to be kept."""
        if not self.training or self.rate == 0:
            return change
        kept = (self.draws >= self.rate).to(change.dtype) / (1 - self.rate)
        return change * kept.reshape(-1, *[1] * (change.dim() - 1))


def build_classifier(config: VisionConfig, dtype: torch.dtype, place: str) -> nn.Module:
    """The model, freshly initialised from torch's global generator, in training mode."""
    from transformers import ConvNextForImageClassification, ViTForImageClassification

    build = (
        ConvNextForImageClassification
        if config.family == "convnext"
        else (ViTForImageClassification)
    )
    model: nn.Module = build(_library_config(config))
    if config.family == "convnext":
        _own_stochastic_depth(model, config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 or name.endswith((".bias", "cls_token", "position_embeddings")):
            parameter.no_weight_decay = True  # type: ignore[attr-defined]
    return model.to(device=place, dtype=dtype).train()


def set_depth(model: nn.Module, draws: Tensor) -> None:
    """Hand the draws [B, blocks] of a batch to the model's blocks."""
    for number, module in enumerate(_depths(model)):
        module.draws = draws[:, number]


def logits(model: nn.Module, pixels: Tensor) -> Tensor:
    """What the model says of images [B, C, H, W], in float32 [B, classes]."""
    weights = next(model.parameters())
    found: Tensor = model(pixel_values=pixels.to(weights.dtype)).logits
    return found.float()


def _depths(model: nn.Module) -> list[StochasticDepth]:
    return [module for module in model.modules() if isinstance(module, StochasticDepth)]


def _library_config(config: VisionConfig) -> Any:
    from transformers import ConvNextConfig, ViTConfig

    common: dict[str, Any] = {
        "num_channels": CHANNELS[config.dataset],
        "num_labels": config.classes,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "layer_norm_eps": EPS,
    }
    if config.family == "convnext":
        return ConvNextConfig(
            hidden_sizes=list(config.hidden_sizes),
            depths=list(config.depths),
            layer_scale_init_value=LAYER_SCALE,
            **common,
        )
    width = config.hidden_sizes[0]
    assert config.heads is not None, "the config's own check asks for it"
    return ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=config.depths[0],
        num_attention_heads=config.heads,
        **common,
    )


def _own_stochastic_depth(model: nn.Module, config: VisionConfig) -> None:
    """Rates rise evenly from 0 in the first block to `drop_path` in the last."""
    blocks = [module for module in model.modules() if hasattr(module, "drop_path")]
    rates = np.linspace(0, config.drop_path, len(blocks)).tolist()
    for block, rate in zip(blocks, rates, strict=True):
        block.drop_path = StochasticDepth(rate)
