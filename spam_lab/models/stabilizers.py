"""What the paper's Table 2 does to the model against spikes, for any family and any combination.

It owns Embed LN, Embed Detach, Scaled Embed and Scaled Init. It promises that the weights a model
has without them keep their names and their random numbers, so that runs stay paired by seed, and
that what is off leaves the model as its family builds it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from spam_lab.config.fields import ConfigError, Problem
from spam_lab.config.schema import ModelConfig, StabilizerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer_norm": lambda width: nn.LayerNorm(width, eps=1e-5),
    "rms_norm": lambda width: nn.RMSNorm(width, eps=1e-6),
}

# W_O and W_2 of LLaMA, GPT-NeoX, OPT and of families that name them as these do.
_ENDS_IN_RESIDUAL = re.compile(
    r"(attention\.dense|\.dense_4h_to_h|\.o_proj|\.down_proj|\.out_proj|\.fc2)\.weight$"
)


def stabilize(model: PreTrainedModel, config: StabilizerConfig, sizes: ModelConfig) -> None:
    """Change a freshly built model in place, as `config` says.

    The embedding's output E [..., d] becomes Embed Detach, then Scaled Embed, then Embed LN of it
    (`EmbeddingOutput`), so that gamma falls on the table's gradient alone and the norm comes last,
    as in BLOOM. It is the output of the token table, before learned positions are added.

    Scaled Init (Nguyen and Salazar 2019, Megatron; in Takase et al., arXiv 2312.16903): with
    d = `sizes.hidden_size` and N = `sizes.num_hidden_layers`,

        every matrix, embedding and head included:  W ~ N(0, 2 / (5 d))
        "residual": W_2 and W_O:                    W ~ N(0, 2 / (5 d) / (2 N))
        "all": every matrix:                        W ~ N(0, 2 / (5 d) / (2 N))

    SPAM writes sqrt(2 / (5 d)) / sqrt(2 N) and not which matrices it is for: "residual" is the
    reading of its sources and what conf/stabilizer/scaled_init.yaml takes, "all" is SPAM's formula
    to the letter. The normal numbers are those of the model without it, times a constant, so
    `sizes.initializer_range` drops out; norms and biases are left alone.

    Raises:
        ConfigError: Scaled Init does not know which matrices of the family are W_2 and W_O.
    """
    if config.scaled_init != "none":
        _scale_weights(model, config.scaled_init, sizes)
    if config.embed_norm != "none" or config.embed_detach is not None or config.scaled_embed:
        embedding = cast(nn.Embedding, model.get_input_embeddings())
        # A child and a hook, not a wrapper: the table keeps its name, its type and whatever
        # transformers ties to it, and the norm's weights are the model's own.
        embedding.add_module("output", EmbeddingOutput(config, embedding.embedding_dim))
        embedding.register_forward_hook(_through_output)


class EmbeddingOutput(nn.Module):
    """What becomes of the rows E [..., d] that an embedding looks up, in this order.

    - Embed Detach (Takase et al., equation 21, gamma = 0.1): E <- gamma E + (1 - gamma) stop(E),
      where stop passes no gradient: E itself forward, bit for bit, and gamma times its gradient
      backward. Under Adam, blind to the scale of a gradient but for eps, it changes little.
    - Scaled Embed: E <- sqrt(d) E, and so sqrt(d) times the gradient.
    - Embed LN: E <- LayerNorm(E) with a weight of 1 and a bias of 0, both trained, eps 1e-5, as
      in BLOOM and in bitsandbytes' StableEmbedding (of which the initialisation and the 32-bit
      optimizer state are not taken over); or RMSNorm, with a weight, eps 1e-6, as LLaMA's own
      norms. The paper does not say which.
    """

    def __init__(self, config: StabilizerConfig, width: int) -> None:
        super().__init__()
        self._gamma = config.embed_detach
        self._scale = math.sqrt(width) if config.scaled_embed else None
        self.norm = _NORMS[config.embed_norm](width) if config.embed_norm != "none" else None

    def forward(self, rows: Tensor) -> Tensor:
        """The rows as the model reads them; same shape and dtype."""
        if self._gamma is not None:
            rows = _Detach.apply(rows, self._gamma)  # type: ignore[no-untyped-call]
        if self._scale is not None:
            rows = rows * self._scale
        return rows if self.norm is None else self.norm(rows)


class _Detach(torch.autograd.Function):
    """The identity, with gamma times the gradient. The sum of two parts would round twice."""

    @staticmethod
    def forward(context: Any, rows: Tensor, gamma: float) -> Tensor:
        context.gamma = gamma
        return rows.view_as(rows)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * context.gamma, None


def _through_output(embedding: nn.Module, inputs: object, rows: Tensor) -> Tensor:
    output = cast(EmbeddingOutput, embedding.output)
    return cast(Tensor, output(rows))


def _scale_weights(model: PreTrainedModel, which: str, sizes: ModelConfig) -> None:
    """Turn weights of std `initializer_range` into Scaled Init's."""
    matrices = {name: p for name, p in model.named_parameters() if p.ndim >= 2}
    ends = {name for name in matrices if _ENDS_IN_RESIDUAL.search(name)}
    if len(ends) != 2 * sizes.num_hidden_layers:
        allowed = (
            f"none for model.family={sizes.family}, of which the two output matrices of a layer "
            f"are not known"
        )
        raise ConfigError.of([Problem("stabilizer.scaled_init", which, allowed)])
    factor = math.sqrt(2 / (5 * sizes.hidden_size)) / sizes.initializer_range
    smaller = factor / math.sqrt(2 * sizes.num_hidden_layers)
    with torch.no_grad():
        for name, weight in matrices.items():
            weight.mul_(smaller if which == "all" or name in ends else factor)
