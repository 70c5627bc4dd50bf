"""ReLoRA: whole runs against the oracle through several merges, what a merge leaves unchanged, what
it prunes, when it waits, and the two places where it must refuse or agree with LoRA."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.models.kinds import named_kinds
from spam_lab.optim.baselines.adapters import Adapter, adapter_of, merge
from spam_lab.optim.baselines.relora import ReLoRA
from spam_lab.optim.methods.lora import LoraConfig
from spam_lab.optim.methods.relora import ReloraConfig
from spam_lab.optim.registry import build_optimizer, prepare_model
from tests.oracle_adapters import OracleAdapters, loss_of
from tests.tiny_network import TinyNetwork, batches, train

HYPER = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-7, "weight_decay": 0.1}
LORA = {"lr": 0.01, "beta2": 0.99, "eps": 1e-7, "weight_decay": 0.1, "rank": 3, "alpha": 6.0}


def made(
    dtype: torch.dtype = torch.float64, seed: int = 3, **options: Any
) -> tuple[TinyNetwork, ReLoRA]:
    own = {"dropout": 0.0, "merge_every": 7, "rewarm_steps": 3, "reset_fraction": 0.6}
    config = ReloraConfig(**{**LORA, **own, **options})
    network = TinyNetwork().to(dtype)
    prepare_model(config, network, seed)
    optimizer = build_optimizer(config, named_kinds(network), seed)
    assert isinstance(optimizer, ReLoRA)
    return network, optimizer


def take_step(network: TinyNetwork, optimizer: ReLoRA, step: int) -> None:
    optimizer.zero_grad()
    loss_of(network, batches(step + 1)[step]).backward()
    optimizer.step()


def adapters(network: TinyNetwork) -> list[tuple[torch.Tensor, Adapter]]:
    found = [(p, adapter_of(p)) for p in network.parameters()]
    return [(p, adapter) for p, adapter in found if adapter is not None]


def test_training_merges_prunes_and_warms_up() -> None:
    """30 steps, four merges. The new A and which moments stay are the optimizer's own draws."""
    network, optimizer = made()
    named = dict(network.named_parameters())
    layers = [name.removesuffix(".lora_A") for name in named if name.endswith("lora_A")]
    frozen = {layer: named[f"{layer}.weight"].detach().numpy() for layer in layers}
    values = {n: p.detach().numpy() for n, p in named.items() if p.requires_grad}
    oracle = OracleAdapters(values, frozen, ("lora_A", "lora_B"), 2.0, HYPER)
    kept = []
    for step, tokens in enumerate(batches(30), start=1):
        optimizer.zero_grad()
        loss_of(network, tokens).backward()
        optimizer.step()
        after = (step - 1) % 7
        oracle.step(tokens, 1.0, [1 / 3, 2 / 3][after] if step > 7 and after < 2 else 1.0)
        if step % 7 == 0:
            for layer in layers:
                oracle.frozen[layer] = oracle.full(layer)
                drawn = named[f"{layer}.lora_A"].detach().numpy().copy()
                assert not np.allclose(drawn, oracle.values[f"{layer}.lora_A"])
                oracle.values[f"{layer}.lora_A"] = drawn
                oracle.values[f"{layer}.lora_B"] *= 0
                for name in (f"{layer}.lora_A", f"{layer}.lora_B"):
                    stays = optimizer.state[named[name]]["exp_avg"].numpy() != 0
                    kept.append(stays.mean())
                    oracle.m[name] *= stays
                    oracle.v[name] *= stays
        for name, value in oracle.values.items():
            parameter = named[name]
            state = optimizer.state[parameter]
            np.testing.assert_allclose(
                parameter.detach(), value, rtol=1e-8, atol=1e-11, err_msg=name
            )
            np.testing.assert_allclose(state["exp_avg"], oracle.m[name], rtol=1e-7, atol=1e-12)
            np.testing.assert_allclose(state["exp_avg_sq"], oracle.v[name], rtol=1e-7, atol=1e-12)
        for layer in layers:
            weight = named[f"{layer}.weight"].detach()
            np.testing.assert_allclose(weight, oracle.frozen[layer], rtol=1e-10, atol=1e-12)
    assert len(kept) == 4 * 14 and abs(np.mean(kept) - 0.4) < 0.03


@pytest.mark.parametrize(("fraction", "share"), [(1.0, 0.0), (0.0, 1.0)])
def test_the_ends_of_the_pruning_are_all_and_nothing(fraction: float, share: float) -> None:
    network, optimizer = made(reset_fraction=fraction, merge_every=4)
    for step in range(4):
        take_step(network, optimizer, step)
    for a, adapter in adapters(network):
        for factor in (a, adapter.b):
            assert (optimizer.state[factor]["exp_avg"] != 0).double().mean() == share
            assert (optimizer.state[factor]["exp_avg_sq"] != 0).double().mean() == share


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.05)]
)
def test_a_merge_changes_no_output(dtype: torch.dtype, error: float) -> None:
    network, optimizer = made(dtype, merge_every=100)
    for step in range(6):
        take_step(network, optimizer, step)
    tokens, generator = batches(1)[0], torch.Generator().manual_seed(0)
    with torch.no_grad():
        before = network.model(tokens).double()
        weights = [adapter.weight.clone() for _, adapter in adapters(network)]
        merged = [x.weight.double() + 2.0 * x.b.double() @ a.double() for a, x in adapters(network)]
        for a, adapter in adapters(network):
            merge(a, adapter, generator)
        after = network.model(tokens).double()
        for (_, adapter), weight, full in zip(adapters(network), weights, merged, strict=True):
            assert not torch.equal(adapter.weight, weight) and not adapter.b.any()
            once = (adapter.weight == full.to(dtype)).double().mean()
            assert once > 0.9 or dtype != torch.bfloat16, "bfloat16 is rounded to once"
    assert (after - before).abs().max() <= error * before.abs().max()


def test_before_the_first_merge_it_is_lora() -> None:
    """Bit for bit, dropout included; and not any more after it."""
    options = {**LORA, "dropout": 0.1}
    lora, relora = LoraConfig(**options), ReloraConfig(**options, merge_every=9, rewarm_steps=2)
    for dtype in (torch.float32, torch.bfloat16):
        assert train(relora, steps=8, dtype=dtype) == train(lora, steps=8, dtype=dtype)
        assert train(relora, steps=9, dtype=dtype) != train(lora, steps=9, dtype=dtype)


def test_the_learning_rate_of_a_group_is_left_as_it_is() -> None:
    network, optimizer = made(merge_every=2, rewarm_steps=5)
    for step in range(5):
        take_step(network, optimizer, step)
        assert [group["lr"] for group in optimizer.param_groups] == [0.01] * 5


def test_a_merge_waits_for_gradients_of_both_factors() -> None:
    network, optimizer = made(merge_every=3)
    (a, first), (_, second), (_, third), *_ = adapters(network)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(network, batches(step + 1)[step]).backward()
        if step == 2:
            a.grad = second.b.grad = None
        before = [x.weight.clone() for x in (first, second, third)]
        optimizer.step()
        after = [x.weight for x in (first, second, third)]
        moved = [not torch.equal(x, y) for x, y in zip(before, after, strict=True)]
        assert moved == {2: [False, False, True], 3: [True, True, False]}.get(step, [False] * 3)


def test_draws_depend_on_the_seed_the_layer_and_the_number_of_the_merge() -> None:
    """And not on the caller's random numbers."""

    def drawn(seed: int) -> list[tuple[float, ...]]:
        network, optimizer = made(seed=seed, merge_every=1)
        found = []
        for step in range(2):
            torch.rand(seed)
            take_step(network, optimizer, step)
            found += [tuple(a.flatten().tolist()) for a, _ in adapters(network)[:4]]
        return found

    first = drawn(3)
    torch.rand(1)
    assert first == drawn(3) and len({*first, *drawn(4)}) == 16


def test_a_copied_model_is_refused() -> None:
    """A copy has lost which factor belongs where; it would silently never merge."""
    network, _ = made()
    twin = copy.deepcopy(network)
    config = ReloraConfig(**LORA)
    with pytest.raises(ValueError, match=r"q_proj\.lora_A carries no adapter"):
        build_optimizer(config, named_kinds(twin), 0)


def test_a_broken_factor_breaks_the_merged_weight() -> None:
    network, optimizer = made(merge_every=2, reset_fraction=1.0)
    take_step(network, optimizer, 0)
    a, adapter = adapters(network)[0]
    a.data[0, 0] = float("nan")
    take_step(network, optimizer, 1)
    assert adapter.weight.isnan().any() and optimizer.state[a]["exp_avg"].isnan().any()
