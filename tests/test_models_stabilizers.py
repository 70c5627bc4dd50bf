"""Stabilizers: output and gradient of each and of each pair against a derivation in NumPy, Scaled
Init's distribution, what they add to a model, and real training with each."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import ModelConfig, StabilizerConfig
from spam_lab.data import Batch
from spam_lab.models import build_model, named_kinds, parameter_count, token_losses
from spam_lab.train.loop import Outcome
from tests.training_here import train

WIDTH, LAYERS, ROWS = 32, 3, 200
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": WIDTH, "init_std": 0.02},
}
ENDS = {
    "llama": ("self_attn.o_proj.weight", "mlp.down_proj.weight"),
    "gpt_neox": ("attention.dense.weight", "mlp.dense_4h_to_h.weight"),
    "opt": ("self_attn.out_proj.weight", "fc2.weight"),
}
"""W_O and W_2, by the end of their names."""

PARTS: dict[str, dict[str, Any]] = {
    "layer_norm": {"embed_norm": "layer_norm"},
    "rms_norm": {"embed_norm": "rms_norm"},
    "detach": {"embed_detach": 0.1},
    "scale": {"scaled_embed": True},
}
TWO = [f"{one} {two}" for one, two in combinations(PARTS, 2) if not two.endswith("norm")]


def family(name: str, **changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "name": name,
        "family": name,
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_attention_heads": 2,
        "num_hidden_layers": LAYERS,
        "vocab_size": ROWS,
        "architecture": FAMILIES.get(name, {}),
        "paper_steps": 1,
    }
    return ModelConfig(**values | changes)


def build(name: str = "llama", dtype: torch.dtype = torch.float32, **stabilizer: Any) -> nn.Module:
    return build_model(
        family(name),
        sequence_length=8,
        seed=5,
        dtype=dtype,
        stabilizer=StabilizerConfig(**stabilizer),
    )


def expected(
    parts: list[str], table: np.ndarray, ids: np.ndarray, above: np.ndarray, norm: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Output, gradient of the table's rows and of the norm's weights, with no autograd.

    `above` is the gradient that reaches the output, `norm` the norm's weight and bias.
    """
    root = math.sqrt(table.shape[1])
    y = table[ids] * (root if "scale" in parts else 1.0)
    back, own = above, []
    if "layer_norm" in parts or "rms_norm" in parts:
        centre = "layer_norm" in parts
        x = y - y.mean(-1, keepdims=True) if centre else y
        spread = np.sqrt((x * x).mean(-1, keepdims=True) + (1e-5 if centre else 1e-6))
        unit = x / spread
        y = unit * norm[0] + (norm[1] if centre else 0.0)
        own = [(above * unit).sum((0, 1))] + ([above.sum((0, 1))] if centre else [])
        inner = above * norm[0]
        back = inner - unit * (inner * unit).mean(-1, keepdims=True)
        if centre:
            back = back - inner.mean(-1, keepdims=True)
        back = back / spread
    back = back * (root if "scale" in parts else 1.0) * (0.1 if "detach" in parts else 1.0)
    gradient = np.zeros_like(table)
    np.add.at(gradient, ids, back)
    return y, gradient, own


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("chosen", [*PARTS, *TWO, "layer_norm detach scale"])
def test_output_and_gradients_equal_a_derivation_by_hand(name: str, chosen: str) -> None:
    parts = chosen.split()
    merged = {key: value for part in parts for key, value in PARTS[part].items()}
    model = build(name, torch.float64, **merged)
    embedding = model.get_input_embeddings()
    generator = torch.Generator().manual_seed(3)
    trained = list(embedding.output.parameters())
    for parameter in trained:  # as if in mid-training
        parameter.data = torch.randn(WIDTH, generator=generator, dtype=torch.float64)
    ids = torch.randint(2, ROWS, (4, 7), generator=generator)
    ids[:, 0] = 9  # a row that occurs often
    above = torch.randn(4, 7, WIDTH, generator=generator, dtype=torch.float64)
    rows = embedding(ids)
    rows.backward(above)
    y, gradient, own = expected(
        parts,
        embedding.weight.detach().numpy(),
        ids.numpy(),
        above.numpy(),
        [parameter.detach().numpy() for parameter in trained],
    )
    np.testing.assert_allclose(rows.detach(), y, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(embedding.weight.grad, gradient, rtol=1e-11, atol=1e-12)
    assert len(own) == len(trained)
    for parameter, wanted in zip(trained, own, strict=True):
        np.testing.assert_allclose(parameter.grad, wanted, rtol=1e-11, atol=1e-12)


def losses_and_gradients(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    ids = torch.arange(10, 34).view(3, 8)
    total, _ = token_losses(model, Batch(ids, ids))
    total.backward()
    return total.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embed_detach_changes_the_tables_gradient_alone_and_by_gamma(
    name: str, dtype: torch.dtype
) -> None:
    """Bit for bit: a quarter is exact in binary."""
    loss, plain = losses_and_gradients(build(name, dtype))
    same, scaled = losses_and_gradients(build(name, dtype, embed_detach=0.25))
    assert torch.equal(loss, same)
    assert plain.keys() == scaled.keys()
    for key, gradient in plain.items():
        is_table = key.endswith(("embed_tokens.weight", "embed_in.weight"))
        assert torch.equal(scaled[key], gradient * (0.25 if is_table else 1.0)), key


@pytest.mark.parametrize("chosen", PARTS)
def test_a_table_that_is_not_finite_is_not_hidden(chosen: str) -> None:
    embedding = build(**PARTS[chosen]).get_input_embeddings()
    for value in (math.nan, math.inf):
        embedding.weight.data[7, 3] = value
        assert not embedding(torch.tensor([7])).isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("which", ["residual", "all"])
def test_scaled_init_is_normal_with_the_spread_of_its_formula(name: str, which: str) -> None:
    """Within 5 standard errors of a standard deviation of n numbers, s / sqrt(2 n)."""
    plain = dict(build(name).named_parameters())
    scaled = dict(build(name, scaled_init=which).named_parameters())
    assert plain.keys() == scaled.keys()
    smaller = 0
    for key, weight in scaled.items():
        if weight.ndim == 1:
            assert torch.equal(weight, plain[key]), key
            continue
        std = (2 / (5 * WIDTH)) ** 0.5
        if which == "all" or key.endswith(ENDS[name]):
            std /= (2 * LAYERS) ** 0.5
            smaller += key.endswith(ENDS[name])
        drawn = weight[weight.abs().sum(1) > 0]  # OPT's row of padding is zero
        assert abs(drawn.std().item() / std - 1) < 5 / math.sqrt(2 * drawn.numel()), key
        assert abs(drawn.mean().item()) < 5 * std / math.sqrt(drawn.numel()), key
        torch.testing.assert_close(weight, plain[key] * (std / 0.02), rtol=1e-6, atol=0)
    assert smaller == 2 * LAYERS


def test_scaled_init_does_not_depend_on_the_spread_it_replaces() -> None:
    wide = family("llama", initializer_range=0.5)
    config = StabilizerConfig(scaled_init="residual")
    one = build_model(wide, sequence_length=8, seed=5, stabilizer=config)
    pairs = zip(one.parameters(), build(scaled_init="residual").parameters(), strict=True)
    for weight, other in pairs:
        torch.testing.assert_close(weight, other, rtol=1e-6, atol=0)


def test_scaled_init_refuses_a_family_whose_matrices_it_does_not_know() -> None:
    gpt2 = family("gpt2", architecture={"n_inner": 96})
    config = StabilizerConfig(scaled_init="residual")
    with pytest.raises(ConfigError, match=r"stabilizer\.scaled_init=residual.*family=gpt2"):
        parameter_count(gpt2, 8, config)
    assert parameter_count(gpt2, 8, StabilizerConfig(embed_norm="rms_norm")) == WIDTH + (
        parameter_count(gpt2, 8)
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_keep_their_names_and_numbers_and_the_norm_is_one(name: str) -> None:
    plain = {key: (kind, p) for key, kind, p in named_kinds(build(name))}
    stabilizer = {"embed_norm": "layer_norm", "embed_detach": 0.1, "scaled_embed": True}
    model = build(name, **stabilizer)
    added = 0
    for key, kind, parameter in named_kinds(model):
        if key in plain:
            assert kind == plain[key][0] and torch.equal(parameter, plain[key][1]), key
        else:
            assert kind == "norm" and parameter.shape == (WIDTH,)
            assert (parameter == (1 if key.endswith("weight") else 0)).all()
            added += parameter.numel()
    assert added == 2 * WIDTH
    count = parameter_count(family(name), 8, StabilizerConfig(**stabilizer))
    assert count == sum(p.numel() for p in model.parameters())
    assert count == parameter_count(family(name), 8) + added


def test_every_precision_rounds_the_same_weights() -> None:
    config = {"embed_norm": "rms_norm", "scaled_init": "residual"}
    whole, half = build(**config), build("llama", torch.bfloat16, **config)
    for one, rounded in zip(whole.parameters(), half.parameters(), strict=True):
        assert rounded.dtype == torch.bfloat16
        assert torch.equal(one.bfloat16(), rounded)


SHORT = ["schedule.steps=12", "schedule.warmup_steps=2", "data.batch_size=2", "optimizer.lr=0.005"]


def test_every_option_reaches_a_run_and_learns(tiny: list[str], tmp_path: Path) -> None:
    options = ["none", "embed_ln", "embed_detach", "scaled_embed", "scaled_init"]
    rows = [[f"stabilizer={name}"] for name in options]
    rows += [["stabilizer.embed_norm=rms_norm"], ["stabilizer.scaled_init=all"]]
    tables = []
    for index, row in enumerate(rows):
        short = [*tiny, *SHORT, "schedule.steps=8", *row]
        outcome, losses, weights = train(short, tmp_path / str(index))
        assert outcome == Outcome("done", 8)
        assert losses[8] < losses[1] - 0.1, row
        tables.append(weights["model.embed_tokens.weight"])
    for one, other in combinations(tables, 2):
        assert not torch.equal(one, other)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "mixed"])
def test_a_run_with_all_of_them_goes_on_bit_for_bit(
    precision: str, tiny: list[str], tmp_path: Path
) -> None:
    every = [
        "stabilizer=embed_ln",
        "stabilizer.embed_detach=0.3",
        "stabilizer.scaled_embed=true",
        "stabilizer.scaled_init=residual",
        f"precision={precision}",
    ]
    _, losses, weights = train([*tiny, *SHORT, *every], tmp_path / "whole")
    stopped, before, _ = train([*tiny, *SHORT, *every], tmp_path / "cut", stop_at=7)
    assert stopped == Outcome("stopped", 7)
    _, after, resumed = train([*tiny, *SHORT, *every], tmp_path / "cut")
    assert before | after == losses and min(after) == 8
    assert weights.keys() == resumed.keys()
    norm = weights["model.embed_tokens.output.norm.weight"]
    assert not (norm == 1).all(), "the norm is trained"
    for key, value in weights.items():
        assert torch.equal(value, resumed[key]), key
