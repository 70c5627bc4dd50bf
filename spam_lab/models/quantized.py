"""Training with few bits: fake-quantised weights and activations in a model's linear layers.

It owns which layers compute with quantised values and how a value is rounded. It promises that
parameters keep their names, their kinds, their initial values and their full precision, so that
runs stay paired by seed and an optimizer sees what it always sees; that the quantised forward pass
depends on a token and on the weights alone, not on the batch; and that what is not finite stays so.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from spam_lab.config.fields import ConfigError, Problem
from spam_lab.config.schema import PrecisionConfig
from spam_lab.models.kinds import module_kind

QUANTIZED_KINDS = ("attention", "ffn")
"""The kinds of weights that are quantised: the matrices of the blocks. Embeddings, norms and head
keep their precision, as in Stable-SPAM's code (q, k, v, o, gate, up and down alone)."""


def quantize(model: nn.Module, precision: PrecisionConfig) -> None:
    """Let the linear layers of the blocks compute as `precision` says; changes `model` in place.

    Called on the model as its optimizer wants it. Where both numbers of bits are null, nothing
    changes.

    Raises:
        ConfigError: a matrix of the blocks is no plain linear layer's (GPT-2's, or one that LoRA
            has taken over): it would be trained as it is, under the name of quantised training.
    """
    if not precision.quantized:
        return
    layers = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module_kind(name) in QUANTIZED_KINDS
    }
    quantized = {f"{name}.weight" for name in layers}
    others = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2 and module_kind(name) in QUANTIZED_KINDS and name not in quantized
    ]
    if others:
        raise _refused(precision, f"this optimizer: {others[0]} is not a plain linear layer's")
    if not layers:
        raise _refused(precision, "this optimizer: no linear layer in attention or feed-forward")
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        few = QuantizedLinear(layer, precision.weight_bits, precision.activation_bits)
        setattr(model.get_submodule(parent), child, few)


def _refused(precision: PrecisionConfig, reason: str) -> ConfigError:
    bits = {
        "precision.weight_bits": precision.weight_bits,
        "precision.activation_bits": precision.activation_bits,
    }
    allowed = f"null for this model and {reason}"
    return ConfigError.of([Problem(k, v, allowed) for k, v in bits.items() if v is not None])


class QuantizedLinear(nn.Linear):
    """y = Q_a(x) Q_w(W)^T + b: a linear layer of which both factors of the product have few values.

    Q_w has a scale for each output channel (row of W), Q_a one for each token, both taken anew from
    the largest absolute value in every forward pass (`fake_quantize`). The product itself is
    computed in the dtype of the weights: what is simulated is what rounding does to training, not
    the speed or the memory of few bits. W and b are taken over, not copied.

    Args:
        linear: the layer to replace.
        weight_bits: of Q_w; None leaves W as it is.
        activation_bits: of Q_a; None leaves x as it is.
    """

    def __init__(
        self, linear: nn.Linear, weight_bits: int | None, activation_bits: int | None
    ) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would draw a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.weight, self.bias = linear.weight, linear.bias
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        weight = self.weight
        if self.weight_bits is not None:
            weight = fake_quantize(weight, self.weight_bits)
        if self.activation_bits is not None:
            input = fake_quantize(input, self.activation_bits)
        return functional.linear(input, weight, self.bias)

    def extra_repr(self) -> str:
        """As a linear layer's, with the bits."""
        bits = f"weight_bits={self.weight_bits}, activation_bits={self.activation_bits}"
        return f"{super().extra_repr()}, {bits}"


def fake_quantize(values: Tensor, bits: int) -> Tensor:
    """Round each row to the nearest of 2^bits - 1 equally spaced values; same shape and dtype.

    Symmetric: with n = 2^(bits - 1) - 1 and s = max|row| / n, an entry x becomes

        s * round(x / s), with round to nearest, ties to even, so one of -n s ... 0 ... n s.

    Zero and the largest entry stay (to rounding); the value -2^(bits - 1) is not used, so that the
    grid is the same on both sides. The gradient passes straight through: that of x is that of the
    result (Bengio et al. 2013), and the scale has none. A row with an entry that is not finite
    becomes one of which no entry of a product is finite, so that a run that diverges is seen.

    Args:
        values: floating point [..., width]; a row is along the last dimension.
        bits: from 2 to 16; at 16 it is off by at most max|row| / 65534.
    """
    steps = 2 ** (bits - 1) - 1
    rows = values.reshape(-1, values.shape[-1])
    largest = rows.detach().abs().amax(dim=-1).float()
    scale = (largest / steps).clamp(min=torch.finfo(torch.float32).tiny)  # a row of zeros stays
    # torch's own operator, with its gradient: of entries inside the range, which here are all.
    # Zero points that are floats are not looked at on the host, for which a GPU would be waited.
    rounded = torch.fake_quantize_per_channel_affine(
        rows, scale, torch.zeros_like(scale), axis=0, quant_min=-steps, quant_max=steps
    )
    return rounded.view_as(values)
