"""The compiled steps of SPAM, made by the real compiler: the eager path's numbers, faster."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from spam_lab.optim import SPAM, compiled, eager
from spam_lab.optim.compiled import SMALLEST, Kernels

BASE: dict[str, Any] = {
    **{"lr": 0.01, "delta_t": 11, "theta": 20.0, "warmup_steps": 3, "grace_steps": 2},
    **{"betas": (0.9, 0.95), "weight_decay": 0.1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels of this module's tests: each one takes about ten seconds to compile."""
    return tmp_path_factory.mktemp("kernels")


def parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """Lengths that fill no vector, one that is left to the eager path, one not contiguous."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(67, 129), (1000,), (SMALLEST - 1,), (8, 33)]
    values = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    values[3] = values[3].t()
    return [torch.nn.Parameter(value) for value in values]


def groups(params: list[torch.nn.Parameter], density: float) -> list[dict[str, Any]]:
    return [{"params": params[:1], "density": density, "kind": "ffn"}, {"params": params[1:]}]


def advance(optimizer: SPAM, params: list[torch.nn.Parameter], steps: range) -> list[list[int]]:
    """Gradients that spike, are silent at first, are missing, and change size; the counts."""
    counts = []
    for step in steps:
        generator = torch.Generator().manual_seed(100 + step)
        for index, param in enumerate(params):
            grad = torch.randn(param.shape, generator=generator)
            grad *= torch.where(torch.rand(grad.shape, generator=generator) < 0.02, 300.0, 1.0)
            if step < 5:
                grad[0] = 0.0
            missing = (step + index) % 9 == 4
            param.grad = None if missing else grad.to(param.dtype)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + step)
        optimizer.step()
        assert optimizer.telemetry is not None
        counts.append(optimizer.telemetry.clipped.tolist())
    return counts


@pytest.mark.parametrize(
    ("dtype", "density", "options"),
    [
        (torch.float32, 1.0, {}),
        (torch.float32, 0.3, {}),
        (torch.float32, 0.3, {"selection": "random_row"}),
        (torch.float32, 1.0, {"clip_at_zero_moment": True, "bias_correction": "restarted"}),
        (torch.bfloat16, 1.0, {"state_dtype": "float32", "rounding": "stochastic"}),
        (torch.bfloat16, 0.3, {"weight_decay": 0.0}),
        (torch.bfloat16, 1.0, {}),
        (torch.bfloat16, 1.0, {"clip_at_zero_moment": True, "spike_rule": "nullify"}),
    ],
    ids=lambda value: str(value),
)
def test_compiled_and_eager_are_equal_to_the_bit(
    folder: Path, dtype: torch.dtype, density: float, options: dict[str, Any]
) -> None:
    """Weights, moments and counts, through spikes, graces, resets, and a state loaded half-way."""
    plain, fast = parameters(dtype), parameters(dtype)
    one = SPAM(groups(plain, density), **{**BASE, **options})
    other = SPAM(groups(fast, density), **{**BASE, **options})
    other.compile(folder)
    counts = advance(one, plain, range(18))
    assert counts == advance(other, fast, range(18))
    assert sum(map(sum, counts)) > 50, "nothing was clipped"
    resumed = SPAM(groups(fast, density), **{**BASE, **options})
    resumed.compile(folder)
    resumed.load_state_dict(copy.deepcopy(other.state_dict()))
    assert advance(one, plain, range(18, 30)) == advance(resumed, fast, range(18, 30))
    for a, b in zip(plain, fast, strict=True):
        assert torch.equal(a, b)
        for name, value in one.state[a].items():
            found = resumed.state[b][name]
            assert torch.equal(value, found) if torch.is_tensor(value) else value == found, name


@pytest.mark.parametrize("exempt", [True, False])
def test_numbers_at_the_ends_of_bfloat16_step_as_in_the_eager_path(
    folder: Path, exempt: bool
) -> None:
    """Every gradient that bfloat16 has, NaN of any pattern too, on moments of every size."""
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16)
    sizes = [0.0, 1e-40, 1e-20, 1.0, 1e20, 3e38, float("inf"), float("nan")]
    grads = every.repeat(len(sizes))
    moments = torch.tensor(sizes).bfloat16().repeat_interleave(len(every))
    made, counts = [], []
    for compiles in (False, True):
        param = torch.nn.Parameter(torch.ones_like(grads))
        optimizer = SPAM([param], **{**BASE, "clip_at_zero_moment": not exempt, "grace_steps": 0})
        if compiles:
            optimizer.compile(folder)
        param.grad = torch.zeros_like(grads)
        optimizer.step()
        state = optimizer.state[param]
        state["exp_avg_sq"].copy_(moments)
        param.grad.copy_(grads)
        optimizer.step()
        assert optimizer.telemetry is not None
        counts.append(optimizer.telemetry.clipped.tolist())
        made.append((param.detach(), state["exp_avg"], state["exp_avg_sq"]))
    assert counts[0] == counts[1] and counts[0][0] > 1 << 15
    for eager_one, compiled_one in zip(*made, strict=True):
        torch.testing.assert_close(compiled_one, eager_one, rtol=0, atol=0, equal_nan=True)
    assert bool(made[1][0][~grads.isfinite()].isnan().all()), "a broken gradient is hidden"


def test_entries_that_are_not_whole_pairs_step_too(folder: Path) -> None:
    """bfloat16 is stepped two entries at a time: odd lengths and places are not."""
    found = []
    for compiles in (False, True):
        values = torch.randn(1001, generator=torch.Generator().manual_seed(0)).bfloat16()
        params = [torch.nn.Parameter(part) for part in (values, values[:500], values[501:])]
        optimizer = SPAM(params, **BASE)
        if compiles:
            optimizer.compile(folder)
        advance(optimizer, params, range(4))
        for param in params:  # gradients may come from anywhere
            param.grad = torch.cat([torch.zeros(1), param.detach()]).bfloat16()[1:]
        optimizer.step()
        found.append(values)
        if compiles:
            assert optimizer._compiled is not None
            kinds = {kind.layout for kind in optimizer._compiled.kernels._loaded}
            assert kinds == {"dense", "pairs"}
    assert torch.equal(*found)


def test_a_kernel_is_compiled_once_and_never_again_as_steps_go_by(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other lengths, learning rates, thresholds and seeds are arguments; other runs share it."""
    params = parameters(torch.float32)
    first = SPAM(params, **BASE)
    first.compile(folder)
    advance(first, params, range(3))

    def refuse(*_: object) -> str:
        raise AssertionError("compiled again")

    monkeypatch.setattr(Kernels, "_compile", refuse)
    counters.clear()
    generator = torch.Generator().manual_seed(1)
    others = [torch.nn.Parameter(torch.randn(n, generator=generator)) for n in (64, 5000, 77)]
    second = SPAM(others, **{**BASE, "theta": 30.0, "seed": 7, "betas": (0.8, 0.9), "eps": 1e-3})
    second.compile(folder)
    advance(second, others, range(25))
    assert second.compile_seconds == {} and not counters["stats"]
    assert second._compiled is not None and len(second._compiled.kernels._loaded) == 1


def test_what_is_exchanged_in_mid_training_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options of a group, the weights' memory, a gradient in another layout."""
    plain, fast = parameters(torch.float32), parameters(torch.float32)
    one, other = SPAM(plain, **BASE), SPAM(fast, **BASE)
    other.compile(folder)
    for optimizer, params in ((one, plain), (other, fast)):
        advance(optimizer, params, range(3))
        optimizer.param_groups[0]["theta"] = 3.0
        params[0].data = params[0].data.clone() + 1
        advance(optimizer, params, range(3, 6))
        optimizer.param_groups[0]["spike_rule"] = "gaussian"  # no kernel has it
        for param in params:
            optimizer.state.pop(param)
        advance(optimizer, params, range(6, 9))
    for a, b in zip(plain, fast, strict=True):
        assert torch.equal(a, b)


def test_where_a_kernel_serves_the_eager_path_is_not_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the tests above would compare the eager path with itself."""
    params = parameters(torch.float32)[:2]
    optimizer = SPAM(groups(params, 0.3), **BASE)
    optimizer.compile(folder)
    monkeypatch.setattr(eager, "fused", None)
    advance(optimizer, params, range(3))


def test_without_a_compiler_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("no C++ compiler was found\nmore")

    monkeypatch.setattr(compiled, "_package", broken)
    plain, fast = parameters(torch.float32), parameters(torch.float32)
    one, other = SPAM(plain, **BASE), SPAM(fast, **BASE)
    other.compile(tmp_path, when="possible")
    with caplog.at_level(logging.WARNING):
        advance(one, plain, range(4))
        advance(other, fast, range(4))
    assert all(torch.equal(a, b) for a, b in zip(plain, fast, strict=True))
    assert [r.getMessage() for r in caplog.records] == [
        "no compiled optimizer step, going on without: no C++ compiler was found"
    ]
    strict = SPAM(parameters(torch.float32), **BASE)
    strict.compile(tmp_path)
    with pytest.raises(RuntimeError, match="no C"):
        advance(strict, list(strict.param_groups[0]["params"]), range(1))
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"], "nothing half-made is left"


def test_kernels_that_are_kept_are_used_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kernels, "_compile", None)
    params = parameters(torch.float32)
    optimizer = SPAM(params, **BASE)
    optimizer.compile(tmp_path / "none", when="kept")
    advance(optimizer, params, range(2))
    assert not (tmp_path / "none").exists()
