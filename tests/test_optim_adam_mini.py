"""Adam-mini against its definition in float64, block by block, through a file; and its blocks for
the names of LLaMA, GPT-NeoX and OPT."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.models.kinds import module_kind
from spam_lab.optim.baselines.adam_mini import AdamMini
from spam_lab.optim.methods.adam_mini import AdamMiniConfig, block_of
from spam_lab.optim.registry import build_optimizer

HEADS, WIDTH = 3, 6
HYPER = {"beta1": 0.8, "beta2": 0.97, "eps": 1e-3, "weight_decay": 0.2}
BLOCKS: dict[str, list[Any]] = {
    # name -> the blocks of its tensor, as slices of it
    "model.embed_tokens.weight": [np.s_[i] for i in range(5)],
    "model.layers.0.self_attn.q_proj.weight": [np.s_[0:2], np.s_[2:4], np.s_[4:6]],
    "model.layers.0.self_attn.q_proj.bias": [np.s_[i] for i in range(6)],
    "model.layers.0.self_attn.k_proj.weight": [np.s_[0:2]],  # one key-value head for three
    "model.layers.0.self_attn.v_proj.weight": [np.s_[i] for i in range(6)],
    "model.layers.0.self_attn.o_proj.weight": [np.s_[i] for i in range(6)],
    "model.layers.0.mlp.up_proj.weight": [np.s_[i] for i in range(4)],
    "model.layers.0.input_layernorm.weight": [np.s_[:]],
    "rotary.scale": [np.s_[:]],
    "lm_head.weight": [np.s_[i] for i in range(5)],
}
SHAPES: dict[str, tuple[int, ...]] = {
    name: (6,)
    if "bias" in name or "norm" in name
    else (len(blocks) * (2 if "q_proj" in name or "k_proj" in name else 1), WIDTH)
    for name, blocks in BLOCKS.items()
}


def made() -> tuple[dict[str, torch.nn.Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }
    named = [(name, module_kind(name), weight) for name, weight in weights.items()]
    return weights, build_optimizer(AdamMiniConfig(lr=1.0, heads=HEADS, **HYPER), named, 0)


def test_it_is_the_published_update_of_every_block() -> None:
    weights, optimizer = made()
    w = {name: weight.detach().numpy().copy() for name, weight in weights.items()}
    m = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    v = {name: [0.0] * len(blocks) for name, blocks in BLOCKS.items()}
    random = np.random.default_rng(1)
    for t in range(1, 13):
        if t == 6:  # goes on from a file
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            values = {name: weight.detach().clone() for name, weight in weights.items()}
            weights, optimizer = made()
            for name, value in values.items():
                weights[name].data.copy_(value)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        lr = 0.01 * (1 + t % 3)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, weight in weights.items():
            g = random.normal(size=SHAPES[name]) * (100 if t % 5 == 0 else 1)
            weight.grad = torch.from_numpy(g.copy())
            for i, block in enumerate(BLOCKS[name]):
                m[name][block] = 0.8 * m[name][block] + 0.2 * g[block]
                v[name][i] = 0.97 * v[name][i] + 0.03 * np.mean(g[block] ** 2)
                m_hat = m[name][block] / (1 - 0.8**t)
                v_hat = v[name][i] / (1 - 0.97**t)
                w[name][block] -= lr * 0.2 * w[name][block]
                w[name][block] -= lr * m_hat / (math.sqrt(v_hat) + 1e-3)
        before = {name: weight.grad.clone() for name, weight in weights.items()}
        optimizer.step()
        for name, weight in weights.items():
            assert torch.equal(weight.grad, before[name])
            np.testing.assert_allclose(
                weight.detach().numpy(), w[name], rtol=1e-11, atol=1e-12, err_msg=name
            )
    found = sum(state["block_avg_sq"].numel() for state in optimizer.state.values())
    assert found == sum(len(blocks) for blocks in BLOCKS.values())


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("gpt_neox.embed_in.weight", "row"),
        ("gpt_neox.layers.0.attention.query_key_value.weight", "head"),
        ("gpt_neox.layers.0.attention.query_key_value.bias", "entry"),
        ("gpt_neox.layers.0.attention.dense.weight", "row"),
        ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", "row"),
        ("gpt_neox.layers.0.input_layernorm.weight", "tensor"),
        ("gpt_neox.layers.0.input_layernorm.bias", "entry"),
        ("embed_out.weight", "row"),
        ("model.decoder.embed_positions.weight", "row"),
        ("model.decoder.layers.0.self_attn.k_proj.weight", "head"),
        ("model.decoder.layers.0.self_attn.out_proj.weight", "row"),
        ("model.decoder.layers.0.fc1.weight", "row"),
        ("model.layers.0.self_attn.q_norm.weight", "tensor"),
    ],
)
def test_other_families_have_blocks_too(name: str, block: str) -> None:
    assert block_of(name, module_kind(name)) == block


def test_the_fused_projection_has_a_block_for_each_part_of_each_head() -> None:
    weight = torch.nn.Parameter(torch.ones(3 * WIDTH, WIDTH))
    named = [("layers.0.attention.query_key_value.weight", "attention", weight)]
    optimizer = build_optimizer(AdamMiniConfig(lr=0.1, heads=HEADS), named, 0)
    weight.grad = torch.arange(9.0).repeat_interleave(2).unsqueeze(1).expand(-1, WIDTH)
    optimizer.step()
    expected = 0.001 * torch.arange(9.0).square().unsqueeze(1)
    torch.testing.assert_close(optimizer.state[weight]["block_avg_sq"], expected)


@pytest.mark.parametrize(("shape", "heads"), [((6, 6), 4), ((5, 6), 3), ((6,), 3)])
def test_heads_that_do_not_divide_a_projection_are_refused(
    shape: tuple[int, ...], heads: int
) -> None:
    weight = torch.nn.Parameter(torch.ones(shape))
    with pytest.raises(ValueError, match=rf"heads={heads} is not allowed for a matrix of shape"):
        AdamMini([weight], lr=0.1, block="head", heads=heads)


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(ValueError, match="block='column' is not allowed: one of head, row"):
        AdamMini([torch.nn.Parameter(torch.ones(2))], lr=0.1, block="column")
