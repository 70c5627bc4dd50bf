"""What every registered method does with what a user can hand in: missing, frozen, empty, broken
and sparse gradients, groups added in mid-training, and states saved and loaded."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from spam_lab.models.kinds import named_kinds
from spam_lab.optim.registry import build_optimizer, methods, prepare_model
from tests import knobs
from tests.tiny_network import TinyNetwork, batches

NAMES = sorted(methods())


def made(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, Optimizer]:
    """A network and its optimizer, under the method's BASE."""
    config = methods()[name].config(**{**knobs.of(name)[0], **options})
    network = TinyNetwork().to(dtype)
    torch.manual_seed(0)
    prepare_model(config, network, 0)
    return network, build_optimizer(config, named_kinds(network), 0)


def advance(network: Any, optimizer: Optimizer, steps: range) -> None:
    for tokens in batches(steps.stop)[steps.start :]:
        optimizer.zero_grad()
        network.loss(tokens).backward()
        optimizer.step()


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name: str) -> None:
    network, optimizer = made(name)
    tokens = batches(1)[0]
    first = network.loss(tokens).item()
    for _ in range(40):
        optimizer.zero_grad()
        network.loss(tokens).backward()
        optimizer.step()
    network.eval()
    assert network.loss(tokens).item() < first - 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    """Through a file read with weights_only=True, into a new process's optimizer."""
    network, optimizer = made(name, dtype)
    advance(network, optimizer, range(0, 7))
    buffer = io.BytesIO()
    torch.save((network.state_dict(), optimizer.state_dict(), torch.get_rng_state()), buffer)
    advance(network, optimizer, range(7, 14))
    other, restored = made(name, dtype)
    buffer.seek(0)
    model_state, optimizer_state, random = torch.load(buffer, weights_only=True)
    other.load_state_dict(model_state)
    restored.load_state_dict(optimizer_state)
    torch.set_rng_state(random)
    advance(other, restored, range(7, 14))
    assert_same(weights(network), weights(other))
    before, after = optimizer.state_dict()["state"], restored.state_dict()["state"]
    assert before.keys() == after.keys()
    for key, state in before.items():
        for entry, value in state.items():
            found = after[key][entry]
            if isinstance(value, torch.Tensor):
                assert found.dtype == value.dtype and torch.equal(found, value), (key, entry)
            else:
                assert found == value, (key, entry)


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_without_a_gradient_takes_no_step(name: str) -> None:
    """Absent now and then, or never there: torch's optimizers skip it, and go on when it is."""
    network, optimizer = made(name)
    members = [p for p in network.parameters() if p.requires_grad]
    for step, tokens in enumerate(batches(8)):
        optimizer.zero_grad()
        network.loss(tokens).backward()
        idle = members[step % len(members)]
        idle.grad = None
        before = idle.detach().clone()
        optimizer.step()
        assert torch.equal(idle.detach(), before)
    assert all(torch.isfinite(p).all() for p in members)
    optimizer.zero_grad()
    before_all = weights(network)
    optimizer.step()  # nobody has a gradient
    assert_same(weights(network), before_all)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_a_broken_gradient_is_not_hidden(name: str, value: float) -> None:
    """It ends in weights that are not finite (diverged is a result), or in a named refusal."""
    network, optimizer = made(name)
    advance(network, optimizer, range(0, 3))
    tokens = batches(4)[3]
    for _ in range(2):
        optimizer.zero_grad()
        network.loss(tokens).backward()
        for member in network.parameters():
            if member.grad is not None:
                member.grad.view(-1)[0] = value
        optimizer.step()
    assert not all(torch.isfinite(p).all() for p in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_empty_frozen_and_late_parameters(name: str) -> None:
    network, optimizer = made(name)
    advance(network, optimizer, range(0, 2))
    named = "param_names" in optimizer.param_groups[-1]
    own = ("params", "kind", "param_names")
    group = {key: value for key, value in optimizer.param_groups[-1].items() if key not in own}
    empty = nn.Parameter(torch.zeros(0, 3))
    frozen = nn.Parameter(torch.ones(4, 4), requires_grad=False)
    late = nn.Parameter(torch.ones(4, 4))
    for label, kind, parameter in [
        ("e", "norm", empty),
        ("f", "norm", frozen),
        ("l", "head", late),
    ]:
        members: list[Any] = [(label, parameter)] if named else [parameter]
        optimizer.add_param_group({**copy.deepcopy(group), "params": members, "kind": kind})
    for _ in range(3):
        empty.grad, late.grad = torch.zeros(0, 3), torch.full((4, 4), 0.5)
        optimizer.step()
    assert torch.equal(frozen, torch.ones(4, 4))
    assert torch.isfinite(late).all() and (late.detach() < 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_closures_and_sparse_gradients(name: str) -> None:
    network, optimizer = made(name)
    tokens = batches(1)[0]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = network.loss(tokens)
        loss.backward()
        return loss

    returned = optimizer.step(closure)
    assert returned is not None and float(returned) > 0
    member = next(p for p in network.parameters() if p.requires_grad and p.dim() == 2)
    member.grad = torch.ones_like(member).to_sparse()
    with pytest.raises((RuntimeError, NotImplementedError), match=r"(?i)sparse"):
        optimizer.step()
