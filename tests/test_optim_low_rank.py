"""Low-rank training: a whole run against an unchanged network whose weights are B A, and factors
that start with the variance of the model's own initialisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from spam_lab.models.kinds import named_kinds
from spam_lab.optim.baselines.adapters import FactoredLinear
from spam_lab.optim.methods.low_rank import LowRankConfig
from spam_lab.optim.registry import build_optimizer, prepare_model
from tests.oracle_adapters import OracleAdapters, loss_of
from tests.tiny_network import TinyNetwork, batches

HYPER = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-7, "weight_decay": 0.1}


def config(**options: Any) -> LowRankConfig:
    own = {"lr": 0.01, "beta2": 0.99, "eps": 1e-7, "weight_decay": 0.1, "rank": 3}
    return LowRankConfig(**{**own, **options})


def factored(network: nn.Module) -> dict[str, FactoredLinear]:
    return {n: m for n, m in network.named_modules() if isinstance(m, FactoredLinear)}


def test_training_is_adam_on_the_factors() -> None:
    """30 steps with weight decay and spikes, against the oracle, in float64."""
    network = TinyNetwork().double()
    shapes = {name: p.shape for name, p in network.named_parameters()}
    prepare_model(config(), network, 3)
    frozen = {name: np.zeros(shapes[f"{name}.weight"]) for name in factored(network)}
    values = {name: p.detach().numpy() for name, p in network.named_parameters()}
    oracle = OracleAdapters(values, frozen, ("factor_A", "factor_B"), 1.0, HYPER)
    optimizer = build_optimizer(config(), named_kinds(network), 3)
    for step, tokens in enumerate(batches(30)):
        spike = 100.0 if step % 5 == 4 else 1.0
        optimizer.zero_grad()
        (loss_of(network, tokens) * spike).backward()
        optimizer.step()
        oracle.step(tokens, spike)
    assert len(frozen) == 7 and not any(name.endswith("_proj.weight") for name in values)
    named = dict(network.named_parameters())
    for name, value in oracle.values.items():
        np.testing.assert_allclose(named[name].detach(), value, rtol=1e-8, atol=1e-11, err_msg=name)


def test_it_starts_with_the_models_own_variance() -> None:
    """Whatever that is, by layer; A keeps the size of what it reads."""
    for size in (0.02, 0.3):
        linear = nn.Linear(192, 256, bias=False)
        nn.init.normal_(linear.weight, std=size, generator=torch.Generator().manual_seed(1))
        layer = FactoredLinear(linear, rank=48, index=0, seed=0)
        product = layer.factor_B.detach() @ layer.factor_A.detach()
        assert abs(product.std().item() / size - 1) < 0.03
        assert torch.linalg.matrix_rank(product) == 48
        x = torch.randn(64, 192, generator=torch.Generator().manual_seed(2))
        assert abs((x @ layer.factor_A.detach().T).std().item() - 1) < 0.05


def test_it_depends_on_the_seed_and_the_layer_alone() -> None:
    network, other, third = TinyNetwork(), TinyNetwork(), TinyNetwork()
    state = torch.get_rng_state()
    for model, seed in ((network, 3), (other, 3), (third, 4)):
        prepare_model(config(), model, seed)
    assert torch.equal(torch.get_rng_state(), state)
    found = [{n: layer.factor_A for n, layer in factored(m).items()} for m in (network, other)]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    q, k, *_ = factored(network).values()
    assert not torch.equal(q.factor_A, k.factor_A)
    assert not torch.equal(q.factor_A, next(iter(factored(third).values())).factor_A)


def test_a_layer_of_zeros_still_learns() -> None:
    """Some families start a projection at zero; a product of two zeros would stay there."""
    linear = nn.Linear(6, 5)
    nn.init.zeros_(linear.weight)
    layer = FactoredLinear(linear, rank=2, index=0, seed=0)
    x = torch.ones(1, 6)
    assert torch.equal(layer(x), linear.bias.expand(1, 5))
    layer(x).sum().backward()
    assert layer.factor_B.grad is not None and layer.factor_B.grad.abs().sum() > 0
