"""SPAM as a torch optimizer: state, groups, schedulers, refusals, broken and missing gradients."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spam_lab.optim import SPAM
from spam_lab.optim.allocations import peak_of
from spam_lab.optim.reset import ResetClock, warmup_scale

BASE: dict[str, Any] = {"delta_t": 5, "warmup_steps": 3, "grace_steps": 1, "theta": 4.0}


def problem(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for shape in [(6, 7), (5,), ()]
    ]


def groups(params: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[:1], "density": 0.4, "kind": "ffn"}, {"params": params[1:]}]


def advance(
    optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], *steps: int
) -> None:
    for step in range(*steps):
        generator = torch.Generator().manual_seed(step)
        for param in params:
            grad = torch.randn(param.shape, generator=generator)
            param.grad = (grad * 10.0 ** (step % 3)).to(param.dtype)
        optimizer.step()


def bits(params: list[torch.nn.Parameter]) -> list[Any]:
    return [param.detach().tolist() for param in params]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("state_dtype", [None, "float32", torch.bfloat16])
@pytest.mark.parametrize("spike_rule", ["clip", "gaussian"])
@pytest.mark.parametrize("stop", [3, 5, 13])
def test_resume_is_bitwise(
    dtype: torch.dtype, state_dtype: Any, spike_rule: str, stop: int
) -> None:
    """Saved and loaded between resets, through a file without code, training goes on to the bit."""
    options = {**BASE, "state_dtype": state_dtype, "spike_rule": spike_rule}
    whole = problem(dtype)
    optimizer = SPAM(groups(whole), **options)
    advance(optimizer, whole, stop)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    half = copy.deepcopy(whole)
    advance(optimizer, whole, stop, 17)
    file.seek(0)
    resumed = SPAM(groups(half), **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    advance(resumed, half, stop, 17)
    assert bits(half) == bits(whole)
    for a, b in zip(whole, half, strict=True):
        for key, value in optimizer.state[a].items():
            other = resumed.state[b][key]
            if isinstance(value, torch.Tensor):
                assert value.dtype == other.dtype and torch.equal(value, other), key
            else:
                assert value == other, key


def test_loading_takes_the_saved_hyperparameters_and_copies_the_moments() -> None:
    """As torch's optimizers do; and stepping the loader leaves the saved state as it was."""
    first, second = problem(), problem()
    saved = SPAM(groups(first), lr=0.5, **BASE)
    advance(saved, first, 2)
    loader = SPAM(groups(second), lr=0.1, **{**BASE, "theta": 99.0, "delta_t": None})
    state = saved.state_dict()
    before = copy.deepcopy(state["state"])
    loader.load_state_dict(state)
    assert [group["lr"] for group in loader.param_groups] == [0.5, 0.5]
    assert loader.param_groups[0]["theta"] == 4.0 and loader.param_groups[1]["delta_t"] == 5
    advance(loader, second, 2, 4)
    torch.testing.assert_close(state["state"], before, rtol=0, atol=0)


def test_a_state_with_a_callable_selection_needs_one() -> None:
    def every(param: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.ones_like(param, dtype=torch.bool)

    params = problem()
    state = SPAM(groups(params), selection=every).state_dict()
    with pytest.raises(ValueError, match="selection='random' is not allowed: a callable"):
        SPAM(groups(params)).load_state_dict(state)


def test_a_deep_copy_continues_alike() -> None:
    params = problem()
    optimizer = SPAM(groups(params), **BASE)
    advance(optimizer, params, 4)
    twins, twin = copy.deepcopy((params, optimizer))
    advance(optimizer, params, 4, 9)
    advance(twin, twins, 4, 9)
    assert bits(params) == bits(twins)


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("arithmetic", ["fused", "stepwise"])
@pytest.mark.parametrize("unselected", ["freeze", "sgd"])
def test_schedulers_and_tensor_rates(tensor_lr: bool, arithmetic: str, unselected: str) -> None:
    """A scheduled rate, as a float or a tensor, acts like the same rate set by hand."""
    options = {**BASE, "arithmetic": arithmetic, "unselected": unselected, "weight_decay": 0.1}
    scheduled, manual = problem(), problem()
    lr: Any = torch.tensor(0.1) if tensor_lr else 0.1
    a = SPAM(groups(scheduled), lr=lr, **options)
    b = SPAM(groups(manual), lr=0.1, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(a, lambda step: 1.0 / (1 + step))
    for step in range(7):
        for group in b.param_groups:
            group["lr"] = 0.1 / (1 + step)
        advance(a, scheduled, step, step + 1)
        schedule.step()
        advance(b, manual, step, step + 1)
    torch.testing.assert_close(scheduled, manual, rtol=1e-5, atol=1e-6)


def test_groups_override_rate_decay_and_density() -> None:
    params = problem()
    optimizer = SPAM(
        [
            {"params": [params[0]], "lr": 0.0},
            {"params": [params[1]], "lr": 0.0, "betas": (0.0, 0.5)},
            {"params": [params[2]], "weight_decay": 0.5, "eps": 1e30},
        ],
        lr=0.1,
    )
    start = copy.deepcopy(params)
    advance(optimizer, params, 1)
    assert bits(params)[:2] == bits(start)[:2]
    torch.testing.assert_close(params[2], start[2] * 0.95)


def test_a_group_added_later_shares_the_clock() -> None:
    params = problem()
    optimizer = SPAM(params[:1], **BASE)
    advance(optimizer, params, 5)
    optimizer.add_param_group({"params": params[1:], "density": 0.5, "kind": "late"})
    advance(optimizer, params, 5, 6)
    assert optimizer.telemetry is not None
    assert optimizer.telemetry.kinds == ("other", "late")
    assert optimizer.telemetry.resets == 1
    assert optimizer.state[params[1]]["updates"] == 1
    with pytest.raises(ValueError, match=r"theta=5.0 is not allowed: 4.0, the value of the whole"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "theta": 5.0})


def test_the_clock() -> None:
    """Resets at dT, 2 dT, ...; phi from 0.01 to 1 in N calls, 1 before; grace after each."""
    clock = ResetClock(delta_t=500, warmup_steps=150, grace_steps=20)
    assert [clock.resets(call) for call in (1, 499, 500, 999, 1000)] == [0, 0, 1, 1, 2]
    assert [clock.scale(call) for call in (1, 499)] == [1.0, 1.0]
    assert clock.scale(500) == pytest.approx(0.01)
    assert clock.scale(575) == pytest.approx(0.49985, abs=1e-5)
    assert clock.scale(649) == pytest.approx(0.99957, abs=1e-5)
    assert clock.scale(650) == 1.0
    active = [call for call in range(1, 1030) if clock.clips(call)]
    assert active == [*range(20, 500), *range(520, 1000), *range(1020, 1030)]
    never = ResetClock(delta_t=None, warmup_steps=0, grace_steps=2)
    assert [never.clips(call) for call in (1, 2, 3)] == [False, True, True]
    assert never.resets(10**9) == 0 and never.scale(10**9) == 1.0
    assert [warmup_scale(c, 0) for c in (0, 1)] == [1.0, 1.0]


@pytest.mark.parametrize("arithmetic", ["fused", "stepwise"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_zero_moment_freezes_only_as_in_the_reference(arithmetic: str, frozen: bool) -> None:
    """Its first gradient after the grace is a spike for the reference; exempt by default."""
    param = torch.nn.Parameter(torch.zeros(2))
    options = {"grace_steps": 2, "clip_at_zero_moment": frozen, "arithmetic": arithmetic}
    optimizer = SPAM([param], **options)
    for step in range(6):
        param.grad = torch.tensor([1.0, 0.0 if step < 3 else 1.0])
        optimizer.step()
    assert param[0] != 0
    assert (param[1] == 0) == frozen


@pytest.mark.parametrize("spike_rule", ["clip", "nullify", "gaussian", "none"])
@pytest.mark.parametrize("arithmetic", ["fused", "stepwise"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_broken_gradients_are_never_hidden(spike_rule: str, arithmetic: str, value: float) -> None:
    """They make the entry NaN, as in torch's Adam, and are not counted as what was clipped."""
    ours, theirs = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    spam = SPAM([ours], grace_steps=0, spike_rule=spike_rule, arithmetic=arithmetic)
    adam = torch.optim.Adam([theirs])
    for grad in ([1.0, 1.0, 1.0], [value, 1.0, 1.0]):
        for param, optimizer in ((ours, spam), (theirs, adam)):
            param.grad = torch.tensor(grad)
            optimizer.step()
    assert ours.isnan().tolist() == theirs.isnan().tolist() == [True, False, False]


def test_gradients_are_left_as_they_were() -> None:
    for options in ({}, {"spike_rule": "nullify"}, {"arithmetic": "stepwise"}):
        params = problem()
        optimizer = SPAM(groups(params), **{**BASE, "grace_steps": 0, **options})
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        for param in params:
            param.grad = torch.full_like(param, 1e6)
        optimizer.step()
        assert optimizer.telemetry is not None and optimizer.telemetry.clipped.sum() > 0
        assert all(bool((param.grad == 1e6).all()) for param in params if param.grad is not None)


def test_layouts_and_sizes() -> None:
    """Transposed, empty, frozen and gradient-less parameters; the layout changes no number."""
    plain, turned = (torch.arange(6.0).view(2, 3) for _ in range(2))
    params = [torch.nn.Parameter(plain.clone()), torch.nn.Parameter(turned.t().contiguous().t())]
    assert not params[1].is_contiguous()
    empty, idle = torch.nn.Parameter(torch.zeros(0, 3)), torch.nn.Parameter(torch.ones(2))
    fixed = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    for density in (1.0, 0.5):
        masks = {"selection": lambda p, *_: torch.tensor([[True, False, True]] * 2)}
        optimizer = SPAM([*params, empty, idle, fixed], density=density, delta_t=2, **masks)
        for _ in range(4):
            for param in params:
                param.grad = param.detach().contiguous() - 1
            empty.grad = torch.zeros(0, 3)
            optimizer.step()
    torch.testing.assert_close(params[0], params[1], rtol=0, atol=0)
    assert not torch.equal(params[0].detach(), plain)
    assert torch.equal(idle.detach(), torch.ones(2)) and torch.equal(fixed, torch.ones(2))


def test_closures_run_with_gradients() -> None:
    param = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = SPAM([param], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert param.item() < 2.0
    assert optimizer.step() is None


def test_telemetry_labels_and_quiet_steps() -> None:
    """Kinds sharing a label are counted together; nothing is examined during the grace."""
    params = problem()
    optimizer = SPAM(
        [
            {"params": [params[0]], "kind": "ffn"},
            {"params": [params[1]]},
            {"params": [params[2]], "kind": "ffn"},
        ],
        **{**BASE, "grace_steps": 2},
    )
    assert optimizer.telemetry is None
    advance(optimizer, params, 1)
    assert optimizer.telemetry is not None and optimizer.telemetry.entries == 0
    for param in params:
        param.grad = torch.full_like(param, 1e6)
    optimizer.step()
    telemetry = optimizer.telemetry
    assert telemetry.kinds == ("ffn", "other")
    assert telemetry.clipped.tolist() == [42 + 1, 5] and telemetry.entries == 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0 is not allowed: >= 0"),
        ({"lr": torch.ones(2)}, "lr=.* is not allowed: a number or a tensor of one element"),
        ({"betas": (1.0, 0.9)}, r"betas=\(1.0, 0.9\) is not allowed: two in"),
        ({"betas": (0.9, -0.1)}, "betas="),
        ({"eps": -1e-9}, "eps=-1e-09 is not allowed: >= 0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 is not allowed: >= 0"),
        ({"density": 0.0}, "density=0.0 is not allowed: > 0 and <= 1"),
        ({"density": 1.1}, "density=1.1 is not allowed"),
        ({"delta_t": 0}, "delta_t=0 is not allowed: an integer >= 1"),
        ({"delta_t": 2.5}, "delta_t=2.5 is not allowed: an integer"),
        ({"theta": 0.0}, "theta=0.0 is not allowed: > 0"),
        ({"theta": float("inf")}, "theta=inf is not allowed: > 0 and finite"),
        ({"warmup_steps": -1}, "warmup_steps=-1 is not allowed: an integer >= 0"),
        ({"grace_steps": -1}, "grace_steps=-1 is not allowed"),
        ({"seed": 0.5}, "seed=0.5 is not allowed: an integer"),
        ({"clip_at_zero_moment": 1}, "clip_at_zero_moment=1 is not allowed: True or False"),
        ({"selection": "best"}, "selection='best' is not allowed: one of random, random_block"),
        ({"spike_rule": "cut"}, "spike_rule='cut' is not allowed: one of clip, nullify"),
        ({"bias_correction": "x"}, "bias_correction='x' is not allowed: one of running"),
        ({"unselected": "x"}, "unselected='x' is not allowed: one of freeze"),
        ({"reselected": "x"}, "reselected='x' is not allowed: one of reset"),
        ({"arithmetic": "x"}, "arithmetic='x' is not allowed: one of fused"),
        (
            {"state_dtype": torch.int64},
            "state_dtype='int64' is not allowed: None or one of float32",
        ),
        (
            {"reselected": "keep", "bias_correction": "restarted"},
            "bias_correction='restarted' is not allowed: running or none wherever reselected=",
        ),
    ],
)
def test_bad_input_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPAM([torch.nn.Parameter(torch.ones(2))], **options)


def test_a_bad_group_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"density=2\.0 is not allowed"):
        SPAM([{"params": [torch.nn.Parameter(torch.ones(2))], "density": 2.0}])


def test_complex_parameters_and_sparse_gradients_are_refused() -> None:
    with pytest.raises(RuntimeError, match="SPAM does not support complex parameters"):
        SPAM([torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    table = torch.nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="SPAM does not support sparse gradients"):
        SPAM(table.parameters()).step()


class NoWaiting(TorchDispatchMode):
    """Fails where a value of a tensor is asked for on the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func) and "nonzero.default" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"selection": "random_block"},
        {"selection": "weight_magnitude", "unselected": "sign"},
        {"spike_rule": "gaussian"},
        {"arithmetic": "stepwise"},
        {"rounding": "stochastic", "state_dtype": "bfloat16"},
        {"lr": torch.tensor(0.1)},
    ],
    ids=str,
)
def test_a_step_between_resets_never_waits_for_the_device(options: dict[str, Any]) -> None:
    params = problem()
    optimizer = SPAM(groups(params), **{**BASE, **options})
    advance(optimizer, params, 6)
    for param in params:
        param.grad = torch.full_like(param, 100.0)
    with NoWaiting():
        optimizer.step()
    assert optimizer.telemetry is not None and int(optimizer.telemetry.clipped.sum()) > 0


@pytest.mark.parametrize("selection", ["random", "random_row", "weight_magnitude"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_takes_no_memory_as_long_as_a_tensor(selection: str, dtype: torch.dtype) -> None:
    """Counted by torch's allocator, at the first step (beyond its state), later and at a reset."""
    param = torch.nn.Parameter(torch.randn(2048, 1024).to(dtype))
    param.grad = torch.randn(2048, 1024).to(dtype)
    optimizer = SPAM([param], density=0.25, selection=selection, delta_t=3)
    cpu = torch.device("cpu")
    peaks = [peak_of(optimizer.step, cpu) for _ in range(4)]
    held = sum(v.nbytes for v in optimizer.state[param].values() if isinstance(v, torch.Tensor))
    limit = param.nbytes // 2
    assert peaks[1] < limit and peaks[3] < limit
    if selection != "weight_magnitude":  # which lists 8 bytes a selected entry while it draws
        assert peaks[0] - held < limit and peaks[2] < limit
