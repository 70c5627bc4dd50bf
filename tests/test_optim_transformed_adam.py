"""What the methods in front of Adam share: the Adam baseline's own step to the bit, any memory
layout, precision of statistics, and no waiting for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spam_lab.optim.base import Group, State
from spam_lab.optim.baselines.adagc import AdaGC
from spam_lab.optim.baselines.gradient_stabilizer import GradientStabilizer
from spam_lab.optim.baselines.stable_spam import StableSPAM
from spam_lab.optim.baselines.transformed_adam import TransformedAdam
from spam_lab.optim.baselines.zclip import ZClip

METHODS = [StableSPAM, GradientStabilizer, ZClip, AdaGC]


class Identity(TransformedAdam):
    def transform(self, grad: torch.Tensor, state: State, group: Group) -> torch.Tensor:
        return grad


def gradients(steps: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 6, generator=generator).to(dtype) for _ in range(steps)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_without_a_transform_it_is_the_adam_baseline(
    dtype: torch.dtype, weight_decay: float
) -> None:
    """To the bit: what sets a method apart from the baseline is then its transform."""
    ours, theirs = (torch.nn.Parameter(torch.ones(4, 6, dtype=dtype)) for _ in range(2))
    options: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-6}
    optimizer = Identity([ours], weight_decay=weight_decay, **options)
    adam = torch.optim.AdamW([theirs], weight_decay=weight_decay, fused=True, **options)
    for grad in gradients(12, dtype):
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        optimizer.step()
        adam.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_any_memory_layout_steps_alike(method: Any) -> None:
    """torch's fused CPU kernel reads memory in order, and is wrong for views like these."""

    def run(sparse_weights: bool, turned_gradients: bool) -> torch.Tensor:
        weights = torch.linspace(-1, 1, 24).view(4, 6)
        if sparse_weights:
            weights = torch.cat([weights, weights], dim=1)[:, :6]
        weight = torch.nn.Parameter(weights.clone() if not sparse_weights else weights)
        optimizer = method([weight], lr=0.1)
        for grad in gradients(4):
            weight.grad = grad.t().contiguous().t() if turned_gradients else grad
            optimizer.step()
        return weight.detach()

    expected = run(False, False)
    for case in [(False, True), (True, False), (True, True)]:
        torch.testing.assert_close(run(*case), expected, rtol=1e-5, atol=1e-6)


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait: a tensor's value, or a shape that depends on values."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "index.Tensor")
        assert not any(name in str(func) for name in waits), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_never_waits_for_the_device(method: Any) -> None:
    """Warm-up, limits in force and resets included; statistics of bfloat16 are float32."""
    weights = [torch.nn.Parameter(torch.ones(4, 6, dtype=torch.bfloat16)) for _ in range(2)]
    short = {StableSPAM: {"delta_t": 5}, ZClip: {"warmup_steps": 3}, AdaGC: {"warmup_steps": 3}}
    optimizer = method(weights, **short.get(method, {}))
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        weights[0].sum().item()
    for step, grad in enumerate(gradients(8, torch.bfloat16)):
        for weight in weights:
            weight.grad = grad * (100 if step == 6 else 1)
        with NoWaiting():
            optimizer.step()
    scalars = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.dim() == 0
    ]
    assert scalars and {value.dtype for value in scalars} == {torch.float32}
