"""Linear layers whose weight is reparameterised: a frozen one plus a product of two factors (LoRA,
ReLoRA), or the product alone (low rank). This module owns these layers, their initial values and
the merge of a product into its weight. It promises factors that depend on the seed and the layer's
place in the model alone, a merge that changes no output beyond rounding, and to touch the linear
layers of attention and feed-forward blocks only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from spam_lab.config.fields import ConfigError
from spam_lab.optim.selection import stream_seed

# `spam_lab.models.kinds` knows the kinds of parameters; optimizers import no models, so the two
# that count here are told again, and a test holds both to the same answer.
_ELSEWHERE = re.compile(r"norm|lm_head|embed|wte|wpe")
_REPLACED = re.compile(r"attn|attention|mlp|fc1|fc2|ffn|feed_forward")

_ADAPTER = "adapter"


@dataclass(frozen=True)
class Adapter:
    """What a factor A is multiplied with and added to; A itself carries it.

    Attributes:
        index: the layer's place among the adapted ones: its stream of random numbers.
        weight: W0, frozen, of shape (out, in).
        b: the factor B, of shape (out, rank).
        scale: alpha / rank.
    """

    index: int
    weight: Tensor
    b: Tensor
    scale: float


class AdaptedLinear(nn.Module):
    """y = W0 x + bias + (alpha / rank) B A dropout(x), with W0 frozen (Hu et al. 2021, Eq. 3).

    A of shape (rank, in) starts as kaiming_uniform(a = sqrt 5), that is U(-1, 1) / sqrt(in), and B
    of shape (out, rank) as zero, so the layer starts as the one it replaces. Factors have the
    dtype and device of W0. A bias stays trainable. Dropout acts in training alone, and draws from
    torch's global generator, which the training loop saves.

    Args:
        linear: the layer to replace; its weight and bias are taken over, not copied.
        rank: columns of B.
        alpha: numerator of the scale.
        dropout: probability of dropping an entry of the adapter's input.
        index: the layer's place among the adapted ones.
        seed: of A.
    """

    def __init__(
        self, linear: nn.Linear, rank: int, alpha: float, dropout: float, index: int, seed: int
    ) -> None:
        super().__init__()
        self.scale, self.dropout = alpha / rank, dropout
        self.weight, self.bias = linear.weight.requires_grad_(False), linear.bias
        self.lora_A = nn.Parameter(self.weight.new_empty(rank, linear.in_features))
        self.lora_B = nn.Parameter(self.weight.new_zeros(linear.out_features, rank))
        draw_a(self.lora_A, torch.Generator().manual_seed(stream_seed(seed, index, 0)))
        setattr(self.lora_A, _ADAPTER, Adapter(index, self.weight, self.lora_B, self.scale))
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        inner = functional.linear(functional.dropout(x, self.dropout, self.training), self.lora_A)
        added = functional.linear(inner, self.lora_B) * self.scale
        return functional.linear(x, self.weight, self.bias) + added


class FactoredLinear(nn.Module):
    """y = B A x + bias: a layer of at most `rank`, trained from scratch.

    A of shape (rank, in) is drawn from N(0, 1 / in), so that A x is as large as x, and B of shape
    (out, rank) from N(0, s^2 in / rank), where s is the root mean square of the replaced weight:
    an entry of B A then has the variance rank (1 / in) (s^2 in / rank) = s^2 of the model's own
    initialisation, whatever the family makes of it. Where that is zero, A alone starts away from
    zero, and the layer still learns. A bias stays as it is.

    Args:
        linear: the layer to replace.
        rank: columns of B.
        index: the layer's place among the replaced ones.
        seed: of both factors.
    """

    def __init__(self, linear: nn.Linear, rank: int, index: int, seed: int) -> None:
        super().__init__()
        weight, width = linear.weight, linear.in_features
        generator = torch.Generator().manual_seed(stream_seed(seed, index, 0))
        a = torch.randn(rank, width, generator=generator) / math.sqrt(width)
        b = torch.randn(linear.out_features, rank, generator=generator) * math.sqrt(width / rank)
        size = weight.detach().to(torch.float32).square().mean().sqrt()
        self.factor_A = nn.Parameter(a.to(weight))
        self.factor_B = nn.Parameter((b.to(weight.device) * size).to(weight))
        self.bias = linear.bias
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return functional.linear(functional.linear(x, self.factor_A), self.factor_B, self.bias)


def replace_linears(model: nn.Module, make: Callable[[nn.Linear, int], nn.Module]) -> None:
    """Put `make(layer, place)` in the place of every linear layer of attention and feed-forward.

    Raises:
        ConfigError: if there is none (GPT-2's are not `nn.Linear`, for example): such a model would
            train as it is, under the method's name.
    """
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _REPLACED.search(name) and not _ELSEWHERE.search(name)
    ]
    if not layers:
        raise ConfigError("this model has no nn.Linear in attention or feed-forward to replace")
    for index, (name, layer) in enumerate(layers):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, make(layer, index))


def adapter_of(parameter: Tensor) -> Adapter | None:
    """The adapter whose A `parameter` is; None if it is none.

    A deep copy of a model loses it: torch copies a parameter's numbers alone.
    """
    found: Adapter | None = getattr(parameter, _ADAPTER, None)
    return found


def draw_a(a: Tensor, generator: torch.Generator) -> None:
    """Fill A: drawn on the CPU in float32, so it is the same on every device."""
    drawn = torch.empty(a.shape)
    nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
    a.detach().copy_(drawn)


@torch.no_grad()
def merge(a: Tensor, adapter: Adapter, generator: torch.Generator) -> None:
    """W0 := W0 + (alpha / rank) B A, then A anew and B zero (ReLoRA, Algorithm 1).

    The product and the sum are taken in float32 at least and round once to W0's dtype. A factor
    that is not finite leaves a weight that is not.
    """
    weight, b = adapter.weight, adapter.b
    dtype = torch.promote_types(weight.dtype, torch.float32)
    product = b.to(dtype) @ a.to(dtype)
    weight.copy_(weight.to(dtype) + adapter.scale * product)
    b.zero_()
    draw_a(a, generator)
