"""The masks of sparse momentum: exact counts, and randomness that nothing else can disturb."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from spam_lab.optim import SPAM, mask


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(5)
    shapes = [(8, 9), (10,), (3, 24)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def selected(optimizer: SPAM, param: torch.Tensor) -> list[int]:
    chosen = mask.from_state(optimizer.state[param])
    assert chosen is not None
    return mask.positions(chosen, param.device).tolist()


def train(optimizer: SPAM, params: list[torch.nn.Parameter], steps: int) -> list[list[list[int]]]:
    """Take steps; the selected positions of every parameter after each."""
    seen = []
    for _ in range(steps):
        for param in params:
            param.grad = param.detach().sin()
        optimizer.step()
        seen.append([selected(optimizer, param) for param in params])
    return seen


def sparse(params: list[torch.nn.Parameter], **options: Any) -> SPAM:
    return SPAM(params, **{"density": 0.3, "delta_t": 4, "warmup_steps": 0, **options})


@pytest.mark.parametrize("selection", ["random", "weight_magnitude", "gradient_magnitude"])
@pytest.mark.parametrize("density", [0.0001, 0.3, 0.99])
def test_count_is_exact_and_at_least_one(selection: str, density: float) -> None:
    params = parameters()
    for masks in train(sparse(params, density=density, selection=selection), params, 9):
        for param, chosen in zip(params, masks, strict=True):
            assert len(set(chosen)) == len(chosen) == max(1, int(density * param.numel()))


def test_masks_change_at_resets_alone_and_differ_between_parameters_and_seeds() -> None:
    params = parameters()
    masks = train(sparse(params), params, 9)
    changes = [step + 1 for step in range(1, 9) if masks[step] != masks[step - 1]]
    assert changes == [4, 8]
    assert masks[0][0] != masks[0][2], "parameters of one size must not share a mask"
    assert masks[3] != masks[7]
    others = parameters()
    assert train(sparse(others, seed=1), others, 1)[0] != masks[0]


def test_random_masks_ignore_the_global_state_and_leave_it_alone() -> None:
    first, second = parameters(), parameters()
    torch.manual_seed(1)
    expected = train(sparse(first), first, 9)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert train(sparse(second), second, 9) == expected
    assert torch.equal(torch.get_rng_state(), state)


def test_random_masks_do_not_depend_on_who_gets_a_gradient_when() -> None:
    """A parameter that misses a reset gets that reset's mask at its next step."""
    steady, late = parameters(), parameters()
    expected = train(sparse(steady), steady, 6)
    optimizer = sparse(late)
    for step in range(6):
        for index, param in enumerate(late):
            param.grad = None if index == 1 and step in (0, 3) else param.detach().sin()
        optimizer.step()
        for index in (0, 2):
            assert selected(optimizer, late[index]) == expected[step][index]
    assert selected(optimizer, late[1]) == expected[5][1]


def test_masks_are_the_same_after_resume() -> None:
    params = parameters()
    optimizer = sparse(params)
    train(optimizer, params, 2)
    twins = copy.deepcopy(params)
    resumed = sparse(twins, seed=99)  # the state's seed wins, as with torch's hyperparameters
    resumed.load_state_dict(optimizer.state_dict())
    assert train(resumed, twins, 7) == train(optimizer, params, 7)


def test_ties_go_to_the_first() -> None:
    param = torch.nn.Parameter(torch.ones(10))
    assert train(sparse([param], selection="weight_magnitude"), [param], 1)[0][0] == [0, 1, 2]


def test_magnitudes_choose_the_largest() -> None:
    param = torch.nn.Parameter(torch.tensor([1.0, -9.0, 2.0, 0.5]))
    param.grad = torch.tensor([0.1, 0.2, -7.0, 0.3])
    for selection, expected in (("weight_magnitude", 1), ("gradient_magnitude", 2)):
        optimizer = sparse([param], density=0.25, selection=selection, lr=0.0)
        optimizer.step()
        assert selected(optimizer, param) == [expected]


@pytest.mark.parametrize(
    "wrong", [torch.ones(5), torch.ones(4, dtype=torch.bool), torch.ones((), dtype=torch.bool)]
)
def test_a_callable_must_return_a_mask_of_the_right_kind(wrong: torch.Tensor) -> None:
    param = torch.nn.Parameter(torch.ones(5))
    param.grad = torch.ones(5)
    with pytest.raises(ValueError, match=r"selection returned a .* mask of shape"):
        sparse([param], selection=lambda *_: wrong).step()


def test_an_empty_mask_trains_nothing() -> None:
    param = torch.nn.Parameter(torch.ones(5))
    train(sparse([param], selection=lambda p, *_: torch.zeros_like(p).bool()), [param], 5)
    assert torch.equal(param.detach(), torch.ones(5))


def test_dense_stores_no_mask_and_sparse_no_unselected_moments() -> None:
    params = parameters()
    for param in params:
        param.grad = torch.ones_like(param)
    dense, thin = SPAM(params), sparse(params)
    dense.step()
    thin.step()
    for param in params:
        assert mask.from_state(dense.state[param]) is None
        assert dense.state[param]["exp_avg"].shape == param.shape
        count = max(1, int(0.3 * param.numel()))
        assert thin.state[param]["exp_avg"].shape == (count,)
        tensors = {k for k, v in thin.state[param].items() if isinstance(v, torch.Tensor)}
        assert tensors == {"exp_avg", "exp_avg_sq"}, "a random mask takes no memory"
