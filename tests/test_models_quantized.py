"""Fake quantisation against NumPy, torch's own observers' arithmetic; what it does to a
model, to gradients and to a run, and what it leaves as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from spam_lab.config.compose import compose_run
from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import PrecisionConfig
from spam_lab.models import build_model
from spam_lab.models.kinds import named_kinds
from spam_lab.models.quantized import QuantizedLinear, fake_quantize, quantize
from spam_lab.optim.registry import prepare_model
from spam_lab.train.loop import Outcome
from tests.ranks import Case, together
from tests.training_here import train

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def precision(weight: int | None, activation: int | None) -> PrecisionConfig:
    return PrecisionConfig("few", weight_bits=weight, activation_bits=activation)


def by_hand(rows: np.ndarray, bits: int) -> np.ndarray:
    """In float64, entry by entry, with fractions of the largest value rather than a scale."""
    levels = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1)) / (2 ** (bits - 1) - 1)
    result = np.zeros_like(rows, dtype=np.float64)
    for index, row in enumerate(rows.astype(np.float64)):
        largest = np.abs(row).max()
        if largest > 0:
            nearest = np.abs(row[:, None] / largest - levels[None, :]).argmin(axis=1)
            result[index] = levels[nearest] * largest
    return result


def drawn(seed: int, rows: int = 6, width: int = 17) -> Tensor:
    """Rows of very different sizes, one of zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator)
    values *= 10.0 ** torch.arange(-3, rows - 3)[:, None]
    values[2] = 0
    return values


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_becomes_the_nearest_of_its_levels(bits: int, dtype: torch.dtype) -> None:
    values = drawn(bits).to(dtype)
    got = fake_quantize(values, bits)
    assert got.dtype == dtype and got.shape == values.shape
    expected = by_hand(values.double().numpy(), bits)
    # bfloat16 has 8 bits: a level is stored with half a unit in the last place.
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 1e-6
    np.testing.assert_allclose(got.double().numpy(), expected, rtol=rounding, atol=0)


@settings(max_examples=60)
@given(
    bits=st.integers(2, 16),
    shape=st.sampled_from([(5,), (3, 4), (2, 3, 8)]),
    size=st.floats(1e-30, 1e30),
    seed=st.integers(0, 2**16),
)
def test_properties_of_the_grid(bits: int, shape: tuple[int, ...], size: float, seed: int) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    got = fake_quantize(values, bits)
    steps = 2 ** (bits - 1) - 1
    largest = values.abs().amax(-1, keepdim=True)
    # At 16 bits float32 itself has no more than 9 bits below a level.
    assert ((got - values).abs() <= largest / (2 * steps) * (1 + 1e-2)).all(), "half a level"
    assert (got.abs() <= largest * (1 + 1e-6)).all(), "never beyond the largest"
    assert torch.equal(fake_quantize(-values, bits), -got), "the same on both sides"
    for row in got.reshape(-1, shape[-1]):
        assert row.unique().numel() <= 2 * steps + 1
    alone = torch.stack([fake_quantize(row, bits) for row in values.reshape(-1, shape[-1])])
    assert torch.equal(alone.view_as(got), got), "a row says nothing of another"
    again = fake_quantize(got, bits)
    torch.testing.assert_close(again, got, rtol=1e-5, atol=0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_spoils_its_row_and_no_other(broken: float, dtype: torch.dtype) -> None:
    values = drawn(5).to(dtype)
    values[1, 3] = broken
    got = fake_quantize(values, 4)
    assert not (got @ torch.ones(got.shape[1], dtype=dtype))[1].isfinite()
    assert not got[1].isfinite().any()
    assert torch.equal(got[2:], fake_quantize(values[2:], 4)) and got[2:].isfinite().all()


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_the_gradient_passes_straight_through(bits: int) -> None:
    """Of y = Q(x) Q(W)^T + b: dx = dy Q(W), dW = dy^T Q(x), db = sum dy, nothing of the scales."""
    plain = nn.Linear(9, 5)
    layer = QuantizedLinear(plain, bits, bits)
    x = torch.randn(2, 3, 9, requires_grad=True)
    out = layer(x)
    given_back = torch.randn_like(out)
    out.backward(given_back)
    qx, qw = (
        by_hand(x.detach().reshape(-1, 9).numpy(), bits),
        by_hand(plain.weight.detach().numpy(), bits),
    )
    dy = given_back.reshape(-1, 5).double().numpy()
    expected = qx @ qw.T + plain.bias.detach().double().numpy()
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(out.detach().reshape(-1, 5).numpy(), expected, **close)
    assert x.grad is not None and layer.weight.grad is not None and layer.bias.grad is not None
    np.testing.assert_allclose(x.grad.reshape(-1, 9).numpy(), dy @ qw, **close)
    np.testing.assert_allclose(layer.weight.grad.numpy(), dy.T @ qx, **close)
    np.testing.assert_allclose(layer.bias.grad.numpy(), dy.sum(0), **close)


def test_one_of_both_can_be_left_as_it_is() -> None:
    plain, x = nn.Linear(9, 5), torch.randn(4, 9)
    weights = QuantizedLinear(plain, 4, None)(x)
    inputs = QuantizedLinear(plain, None, 4)(x)
    assert torch.equal(weights, functional.linear(x, fake_quantize(plain.weight, 4), plain.bias))
    assert torch.equal(inputs, plain(fake_quantize(x, 4)))


@pytest.mark.parametrize("name", ["llama_60m", "pythia_70m", "opt_125m"])
def test_names_kinds_and_initial_weights_are_those_of_the_plain_model(name: str) -> None:
    config = compose_run([f"model={name}"])
    plain, few = (build_model(config.model, sequence_length=16, seed=3) for _ in range(2))
    quantize(few, precision(4, 4))
    assert [(n, k) for n, k, _ in named_kinds(plain)] == [(n, k) for n, k, _ in named_kinds(few)]
    own, others = plain.state_dict(), few.state_dict()
    assert list(own) == list(others) and all(torch.equal(own[key], others[key]) for key in own)
    changed = {n for n, m in few.named_modules() if isinstance(m, QuantizedLinear)}
    matrices = {
        n.removesuffix(".weight")
        for n, kind, p in named_kinds(few)
        if p.ndim == 2 and kind in ("attention", "ffn")
    }
    assert changed == matrices and changed
    plain.load_state_dict(others)
    few.load_state_dict(own)
    assert few.training and all(m.training for m in few.modules())


def test_more_bits_converge_to_the_plain_model() -> None:
    config = compose_run([])
    tokens = torch.arange(32)[None] % config.model.vocab_size
    plain = build_model(config.model, sequence_length=32, seed=0)
    exact = plain(input_ids=tokens).logits
    errors = []
    for bits in (2, 4, 8, 12, 16):
        few = build_model(config.model, sequence_length=32, seed=0)
        quantize(few, precision(bits, bits))
        off = few(input_ids=tokens).logits - exact
        errors.append((off.norm() / exact.norm()).item())
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.01
    assert errors[-1] < 2e-4
    untouched = build_model(config.model, sequence_length=32, seed=0)
    quantize(untouched, precision(None, None))
    assert torch.equal(untouched(input_ids=tokens).logits, exact)


def test_models_it_would_leave_as_they_are_are_refused_by_name() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20))
    with pytest.raises(ConfigError, match=r"weight_bits=4.*\n.*activation_bits=8.*c_attn"):
        quantize(gpt2, precision(4, 8))
    with pytest.raises(ConfigError, match="no linear layer"):
        quantize(nn.Linear(2, 2), precision(4, None))
    for method in ("lora", "relora", "low_rank"):
        config = compose_run([f"optimizer={method}", "optimizer.rank=2"])
        model = build_model(config.model, sequence_length=16, seed=0)
        prepare_model(config.optimizer, model, 0)
        with pytest.raises(ConfigError, match="not a plain linear layer"):
            quantize(model, precision(4, 4))


SHORT = [
    *("schedule.steps=10", "schedule.warmup_steps=2", "optimizer.lr=0.005"),
    *("data.batch_size=2", "evaluation.every=10", "evaluation.tokens=128"),
]


@pytest.mark.parametrize("number_format", ["bf16", "mixed"])
def test_a_run_in_few_bits_goes_on_bit_for_bit(
    number_format: str, tiny: list[str], tmp_path: Path
) -> None:
    bits = ["precision.weight_bits=4", "precision.activation_bits=8"]
    asked = [*tiny, *SHORT, f"precision={number_format}", *bits]
    _, losses, weights = train(asked, tmp_path / "whole")
    stopped, before, _ = train(asked, tmp_path / "cut", stop_at=6)
    assert stopped == Outcome("stopped", 6)
    _, after, resumed = train(asked, tmp_path / "cut")
    assert before | after == losses and min(after) == 7
    assert losses[10] < losses[1] - 0.1, "it learns"
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)


def test_bits_change_the_updates_and_micro_batches_do_not(tiny: list[str], tmp_path: Path) -> None:
    asked = [*tiny, *SHORT, "schedule.steps=3"]
    rows = {
        "plain": [],
        "a4w4": ["precision=a4w4"],
        "a8w8": ["precision=a8w8"],
        "w4": ["precision.weight_bits=4"],
        "a4": ["precision.activation_bits=4"],
        "split": ["precision=a4w4", "train.micro_batch_size=1"],
    }
    ends = {name: train([*asked, *row], tmp_path / name) for name, row in rows.items()}
    split, whole = ends.pop("split")[1], ends["a4w4"][1]
    assert split == pytest.approx(whole, rel=1e-4)
    first = {losses[1] for _, losses, _ in ends.values()}
    assert len(first) == len(ends), "the first loss is that of other weights already"
    tables = [weights["model.layers.0.mlp.up_proj.weight"] for _, _, weights in ends.values()]
    for index, one in enumerate(tables):
        assert all(not torch.equal(one, other) for other in tables[index + 1 :])


def test_ranks_train_it_as_one_process_does(tiny: list[str], tmp_path: Path) -> None:
    dense = [o for o in tiny if not o.startswith("optimizer")]
    asked = [*dense, "optimizer=adam", "precision=a8w8", *SHORT, "schedule.steps=3"]
    _, alone, _ = train(asked, tmp_path / "alone")
    cases = [
        Case(name, [*asked, f"train.sharding={name}"], str(tmp_path / name))
        for name in ("ddp", "fsdp")
    ]
    for results in together(tmp_path / "ranks", cases, 2):
        assert [result.state for result in results] == ["done", "done"], results[0].error
        values = results[0].values
        losses = {int(k): v["train/loss"] for k, v in values.items() if "train/loss" in v}
        # A sum in another order moves an activation over the edge between two levels now and then.
        assert losses == pytest.approx(alone, rel=1e-4)
