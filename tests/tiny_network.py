"""A decoder of a few hundred weights with LLaMA's parameter names, for tests of optimizers.

Every kind of parameter occurs, gradients are real, and `train` gives what a knob needs to show:
spikes, a part of the embedding that gets its first gradient late, and repetition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spam_lab.config.schema import OptimizerConfig
from spam_lab.models.kinds import named_kinds
from spam_lab.optim.clip import clip_gradients
from spam_lab.optim.registry import build_optimizer, prepare_model

VOCABULARY, WIDTH, HEADS, INNER = 24, 8, 2, 12


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(WIDTH, WIDTH, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (HEADS, -1)).transpose(-2, -3)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(-2, -3).flatten(-2))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, INNER, bias=False)
        self.up_proj = nn.Linear(WIDTH, INNER, bias=False)
        self.down_proj = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), Mlp()
        self.input_layernorm = nn.RMSNorm(WIDTH)
        self.post_attention_layernorm = nn.RMSNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([Layer()])
        self.norm = nn.RMSNorm(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class TinyNetwork(nn.Module):
    """`model.embed_tokens`, one `model.layers.0`, `model.norm` and `lm_head`, as in LLaMA."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model, self.lm_head = Decoder(), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def loss(self, tokens: Tensor) -> Tensor:
        logits = self.lm_head(self.model(tokens[:, :-1])).float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def batches(steps: int, seed: int = 1) -> list[Tensor]:
    """One batch a step; the upper half of the vocabulary is silent for the first 8."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(VOCABULARY if step >= 8 else VOCABULARY // 2, (4, 9), generator=generator)
        for step in range(steps)
    ]


def train(
    config: OptimizerConfig,
    seed: int = 0,
    steps: int = 16,
    dtype: torch.dtype = torch.float32,
) -> dict[str, list[Any]]:
    """All weights after `steps` as the training loop takes them; every fifth gradient spikes."""
    network = TinyNetwork().to(dtype)
    torch.manual_seed(seed)
    prepare_model(config, network, seed)
    optimizer = build_optimizer(config, named_kinds(network), seed)
    parameters = [p for p in network.parameters() if p.requires_grad]
    for step, tokens in enumerate(batches(steps)):
        loss = network.loss(tokens) * (100.0 if step % 5 == 4 else 1.0)
        loss.backward()
        clip_gradients(parameters, config.clip_value, config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * group.get("lr_ratio", 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.tolist() for name, value in network.state_dict().items()}
