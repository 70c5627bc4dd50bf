"""LoRA: the adapted layer and its gradient by hand, a whole training against an unchanged network
whose weights are W0 + s B A, which layers are adapted, and dropout in training alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spam_lab.config.fields import ConfigError
from spam_lab.models.kinds import module_kind, named_kinds
from spam_lab.optim.baselines.adapters import AdaptedLinear
from spam_lab.optim.methods.lora import LoraConfig
from spam_lab.optim.registry import build_optimizer, prepare_model
from tests.oracle_adapters import OracleAdapters, loss_of
from tests.tiny_network import TinyNetwork, batches

HYPER = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-7, "weight_decay": 0.1}


def config(**options: Any) -> LoraConfig:
    own = {"lr": 0.01, "beta2": 0.99, "eps": 1e-7, "weight_decay": 0.1, "rank": 3, "alpha": 6.0}
    return LoraConfig(**{**own, "dropout": 0.0, **options})


def adapted(network: nn.Module) -> dict[str, AdaptedLinear]:
    return {n: m for n, m in network.named_modules() if isinstance(m, AdaptedLinear)}


def test_the_layer_and_its_gradients_by_hand() -> None:
    """With dropout and a bias, away from the start: B is not zero."""
    generator = torch.Generator().manual_seed(5)
    linear = nn.Linear(7, 4).double()
    layer = AdaptedLinear(linear, rank=2, alpha=6.0, dropout=0.4, index=0, seed=0)
    layer.lora_B.data.copy_(torch.randn(4, 2, generator=generator))
    x = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    torch.manual_seed(9)
    mask = nn.functional.dropout(torch.ones(5, 7, dtype=torch.float64), 0.4).numpy()
    torch.manual_seed(9)
    y = layer(x)
    y.backward(dy)
    assert x.grad is not None and 0 < (mask == 0).sum() < mask.size

    w, bias, a, b = (
        p.detach().numpy() for p in (layer.weight, layer.bias, layer.lora_A, layer.lora_B)
    )
    x_, g, s = x.detach().numpy(), dy.numpy(), 3.0
    dropped = x_ * mask
    expected = {
        "y": x_ @ w.T + bias + s * dropped @ a.T @ b.T,
        "A": s * b.T @ g.T @ dropped,
        "B": s * g.T @ dropped @ a.T,
        "x": g @ w + s * (g @ b @ a) * mask,
        "bias": g.sum(0),
    }
    found = {"y": y.detach(), "A": layer.lora_A.grad, "B": layer.lora_B.grad}
    found |= {"x": x.grad, "bias": layer.bias.grad}
    for key, value in expected.items():
        np.testing.assert_allclose(found[key].numpy(), value, rtol=1e-12, atol=1e-13, err_msg=key)
    assert layer.weight.grad is None
    layer.eval()
    np.testing.assert_allclose(
        layer(x).detach().numpy(), x_ @ (w + s * b @ a).T + bias, rtol=1e-12, atol=1e-13
    )


def test_training_is_adam_on_the_factors() -> None:
    """30 steps with weight decay and spikes, against the oracle, in float64."""
    network = TinyNetwork().double()
    start = {name: p.detach().numpy().copy() for name, p in network.named_parameters()}
    prepare_model(config(), network, 3)
    values = {n: p.detach().numpy() for n, p in network.named_parameters() if p.requires_grad}
    frozen = {name: start[f"{name}.weight"] for name in adapted(network)}
    oracle = OracleAdapters(values, frozen, ("lora_A", "lora_B"), 2.0, HYPER)
    optimizer = build_optimizer(config(), named_kinds(network), 3)
    for step, tokens in enumerate(batches(30)):
        spike = 100.0 if step % 5 == 4 else 1.0
        optimizer.zero_grad()
        (loss_of(network, tokens) * spike).backward()
        optimizer.step()
        oracle.step(tokens, spike)
    named = dict(network.named_parameters())
    assert len(oracle.values) == 14 + 5 and len(frozen) == 7
    for name, value in oracle.values.items():
        np.testing.assert_allclose(named[name].detach(), value, rtol=1e-8, atol=1e-11, err_msg=name)
    for layer, weight in frozen.items():
        assert np.array_equal(named[f"{layer}.weight"].detach(), weight), "W0 moved"


def test_it_starts_as_the_model_it_adapts() -> None:
    """The same function, factors of the seed alone, and no number of the caller's drawn."""
    network, other, third = TinyNetwork(), TinyNetwork(), TinyNetwork()
    tokens = batches(1)[0]
    before = network.eval().loss(tokens)
    state = torch.get_rng_state()
    prepare_model(config(), network, 3)
    prepare_model(config(), other.bfloat16(), 3)
    prepare_model(config(), third, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network.loss(tokens), before)
    factors = [layer.lora_A.detach() for layer in adapted(network).values()]
    for one, two, a in zip(adapted(other).values(), adapted(third).values(), factors, strict=True):
        assert torch.equal(one.lora_A, a.bfloat16()) and not torch.equal(two.lora_A, a)
    attention = factors[:4]
    assert len({tuple(a.flatten().tolist()) for a in attention}) == 4
    for a in factors:
        bound = a.shape[1] ** -0.5
        assert 0.7 * bound < a.abs().max() <= bound


def test_dropout_acts_in_training_alone() -> None:
    network = TinyNetwork()
    prepare_model(config(dropout=0.5), network, 0)
    for layer in adapted(network).values():
        layer.lora_B.data.fill_(0.3)
    tokens = batches(1)[0]
    assert network.loss(tokens) != network.loss(tokens)
    network.eval()
    assert network.loss(tokens) == network.loss(tokens)
    network.train()
    assert network.loss(tokens) != network.loss(tokens)


def test_an_adapter_keeps_the_mode_of_its_layer() -> None:
    network = TinyNetwork().eval()
    prepare_model(config(), network, 0)
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt"])
def test_attention_and_feed_forward_are_adapted(family: str) -> None:
    """The layers that the lab calls attention or ffn, and no other."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"vocab_size": 32, "ffn_dim" if family == "opt" else "intermediate_size": 24}
    if family == "opt":
        sizes |= {"word_embed_proj_dim": 8}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    expected = {n for n in linear if module_kind(f"{n}.weight") in ("attention", "ffn")}
    assert linear - expected, "a family whose every layer is adapted tests nothing"
    kinds = {n: k for n, k, _ in named_kinds(model)}
    prepare_model(config(), model, 0)
    assert set(adapted(model)) == expected
    after = {n: k for n, k, _ in named_kinds(model)}
    for name in expected:
        kind = kinds.pop(f"{name}.weight")
        assert after.pop(f"{name}.lora_A") == after.pop(f"{name}.lora_B") == kind
    assert after == kinds, "all else is trained as before, biases included"


def test_a_layer_is_adapted_by_the_kind_of_its_name() -> None:
    """Names in which two kinds meet: the lab's order of kinds decides."""
    blocks = ("self_attn", "attention", "mlp", "fc1", "fc2", "ffn", "feed_forward", "other")
    names = [f"{b}_{x}" for b in blocks for x in ("proj", "norm", "lm_head", "embed", "wte", "wpe")]
    network = nn.ModuleDict({name: nn.Linear(2, 2) for name in names})
    prepare_model(config(), network, 0)
    expected = [n for n in names if module_kind(f"{n}.weight") in ("attention", "ffn")]
    assert list(adapted(network)) == expected and len(expected) == 7


def test_the_60m_model_trains_42_7_million() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=512,
                intermediate_size=1376,
                num_attention_heads=8,
                num_hidden_layers=8,
                vocab_size=32000,
            )
        )
    prepare_model(config(rank=128), model, 0)
    trained = [(name, p.numel()) for name, _, p in named_kinds(model)]
    adapters = sum(size for name, size in trained if "lora_" in name)
    assert adapters == 9_994_240 and sum(size for _, size in trained) - adapters == 32_776_704


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no nn\.Linear in attention or feed-forward"):
        prepare_model(config(), nn.Sequential(nn.Linear(2, 2)), 0)
