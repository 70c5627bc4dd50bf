"""Models: the paper's sizes, reproducible weights, refusals by name, parameter kinds, the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from spam_lab.config.fields import ConfigError
from spam_lab.config.scaling import register_resolver
from spam_lab.config.schema import ModelConfig, ScaleConfig
from spam_lab.data import Batch
from spam_lab.models import build_model, module_kind, named_kinds, parameter_count, token_losses

CONF = Path(__file__).parent.parent / "conf"
PAPER_COUNTS = {
    "llama_60m": 58_073_600,
    "llama_130m": 134_105_856,
    "llama_350m": 367_969_280,
    "llama_1b": 1_339_082_752,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt_neox": {"use_parallel_residual": True},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16, "init_std": 0.02},
}


def tiny(family: str = "llama", **changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "name": f"tiny_{family}",
        "family": family,
        "hidden_size": 16,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "vocab_size": 50,
        "architecture": FAMILIES.get(family, {}),
        "paper_steps": 1,
    }
    return ModelConfig(**values | changes)


def from_yaml(name: str, scale: str) -> ModelConfig:
    """conf/model/NAME.yaml at a scale, without composing a whole run."""
    register_resolver()
    model, sizes = (
        OmegaConf.load(CONF / group / f"{file}.yaml")
        for group, file in (("model", name), ("scale", scale))
    )
    for part in (model, sizes):
        assert isinstance(part, DictConfig)
        del part["defaults"]
    typed = OmegaConf.create({"model": ModelConfig, "scale": ScaleConfig})
    merged: Any = OmegaConf.to_object(OmegaConf.merge(typed, {"model": model, "scale": sizes}))
    assert isinstance(merged["model"], ModelConfig)
    return merged["model"]


def shares(config: ModelConfig) -> dict[str, float]:
    with torch.device("meta"):
        model = build_model(config, sequence_length=256, seed=0, device="meta")
    total: dict[str, int] = {}
    for _, kind, parameter in named_kinds(model):
        total[kind] = total.get(kind, 0) + parameter.numel()
    return {kind: count / sum(total.values()) for kind, count in total.items()}


@pytest.mark.parametrize("name", PAPER_COUNTS)
def test_paper_counts(name: str) -> None:
    assert parameter_count(from_yaml(name, "paper")) == PAPER_COUNTS[name]


@pytest.mark.parametrize("name", PAPER_COUNTS)
@pytest.mark.parametrize("scale", ["nano", "small"])
def test_smaller_scales_keep_the_shares(name: str, scale: str) -> None:
    paper, here = shares(from_yaml(name, "paper")), shares(from_yaml(name, scale))
    for kind in ("embedding", "attention", "ffn", "head"):
        assert here[kind] == pytest.approx(paper[kind], abs=0.01), kind


def test_paper_architecture() -> None:
    model = build_model(from_yaml("llama_60m", "nano"), sequence_length=64, seed=0)
    config = model.config
    assert config.rms_norm_eps == 1e-6
    assert config.use_cache is False
    assert config.tie_word_embeddings is False
    assert config._attn_implementation == "sdpa"
    assert config.rope_parameters["rope_theta"] == 10_000
    names = dict(model.named_parameters())
    assert names["model.embed_tokens.weight"] is not names["lm_head.weight"]
    assert not [name for name in names if name.endswith("bias")]
    assert model.training


@pytest.mark.parametrize("family", FAMILIES)
def test_initial_weights_are_normal_with_the_given_spread(family: str) -> None:
    changes: dict[str, Any] = {"initializer_range": 0.05, "vocab_size": 500}
    if family == "opt":
        changes["architecture"] = {**FAMILIES["opt"], "init_std": 0.05}
    model = build_model(tiny(family, **changes), sequence_length=64, seed=0)
    for name, kind, parameter in named_kinds(model):
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif kind == "norm":
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.15), name
            assert abs(parameter.mean().item()) < 0.01, name


def test_same_seed_same_weights_in_every_precision_and_no_random_number_taken() -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = build_model(tiny(), sequence_length=8, seed=7)
    assert torch.equal(torch.rand(3), expected)
    again = build_model(tiny(), sequence_length=16, seed=7)
    half = build_model(tiny(), sequence_length=8, seed=7, dtype=torch.bfloat16)
    other = build_model(tiny(), sequence_length=8, seed=8)
    pairs = zip(*(model.parameters() for model in (first, again, half, other)), strict=True)
    for one, two, rounded, different in pairs:
        assert torch.equal(one, two)
        assert rounded.dtype == torch.bfloat16
        assert torch.equal(one.bfloat16(), rounded)
        assert one.ndim == 1 or not torch.equal(one, different)
    assert all(buffer.dtype == torch.float32 for buffer in half.buffers())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_without_dropout_and_every_weight_has_a_kind(family: str) -> None:
    model = build_model(tiny(family), sequence_length=8, seed=0)
    kinds = [kind for _, kind, _ in named_kinds(model)]
    assert set(kinds) == {"embedding", "attention", "ffn", "norm", "head"}
    assert len(kinds) == len(list(model.parameters()))
    ids = torch.arange(24).view(3, 8)
    losses = [token_losses(model, Batch(ids, ids))[0] for _ in range(2)]
    assert torch.equal(*losses)
    losses[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.post_attention_layernorm.weight", "norm"),
        ("model.decoder.layers.0.self_attn_layer_norm.bias", "norm"),
        ("model.decoder.layers.0.fc1.bias", "ffn"),
        ("model.decoder.embed_positions.weight", "embedding"),
        ("gpt_neox.layers.1.attention.query_key_value.bias", "attention"),
        ("gpt_neox.layers.1.mlp.dense_4h_to_h.weight", "ffn"),
        ("gpt_neox.embed_in.weight", "embedding"),
        ("embed_out.weight", "head"),
        ("classifier.weight", "other"),
    ],
)
def test_kind_of_a_name(name: str, kind: str) -> None:
    assert module_kind(name) == kind


def test_misspelt_architecture_key_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"architecture\.rms_norm_epsilon=0.1.*rms_norm_eps"):
        build_model(
            tiny(architecture={"rms_norm_epsilon": 0.1, "attention_bias": True}),
            sequence_length=8,
            seed=0,
        )


def test_size_that_a_family_calls_otherwise_must_be_given_under_that_name() -> None:
    with pytest.raises(ConfigError, match=r"model\.intermediate_size=48.*opt has no"):
        parameter_count(tiny("opt", architecture={"ffn_dim": 64}))


def test_unknown_family_lists_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"model\.family=llamma.*near:.*llama"):
        parameter_count(tiny("llamma"))
    with pytest.raises(ConfigError, match=r"model\.family=vit"):
        parameter_count(tiny("vit"))


def test_value_that_a_family_refuses_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="llama refuses it"):
        parameter_count(tiny(hidden_size=15))


def test_learned_positions_count_only_where_a_family_has_them() -> None:
    assert parameter_count(tiny(), 8) == parameter_count(tiny(), 16)
    assert parameter_count(tiny("opt"), 16) - parameter_count(tiny("opt"), 8) == 8 * 16


def test_loss_is_the_sum_over_predicted_tokens() -> None:
    model = build_model(tiny(), sequence_length=8, seed=0)
    ids = torch.randint(50, (3, 8), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, 5:] = -100
    labels[2, 1:] = -100  # nothing to predict: a row's first token has no context
    total, count = token_losses(model, Batch(ids, labels))
    logits = model(input_ids=ids).logits.log_softmax(-1)
    expected = [
        -logits[row, place - 1, ids[row, place]]
        for row in range(3)
        for place in range(1, 8)
        if labels[row, place] != -100
    ]
    assert int(count) == len(expected) == 4 + 7
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(torch.stack(expected).sum().item(), rel=1e-6)


def test_loss_is_float32_in_a_bfloat16_model_and_blind_to_padding() -> None:
    model = build_model(tiny(), sequence_length=8, seed=0, dtype=torch.bfloat16)
    ids = torch.arange(16).view(2, 8)
    labels = torch.cat([ids[:, :5], torch.full((2, 3), -100)], dim=1)
    total, count = token_losses(model, Batch(ids, labels))
    assert total.dtype == torch.float32
    padded = torch.cat([ids[:, :5], torch.zeros(2, 3, dtype=torch.int64)], dim=1)
    assert torch.equal(token_losses(model, Batch(padded, labels))[0], total)
    assert int(count) == 8
