"""The account of memory: the code's own state against the arithmetic of the paper's Table 3.

The arithmetic is written out here from the models' widths alone. It is that of GaLore's paper
(weights and optimizer state, two bytes an element), by which SPAM's densities are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import nn

from analysis import paper
from spam_lab.config.compose import compose_run, groups
from spam_lab.config.schema import RunConfig
from spam_lab.optim.memory import KINDS, Memory, extended, kind_of, state_bytes
from spam_lab.train import memory
from spam_lab.train.memory import run_memory, run_shapes

BF16 = 2


@dataclass(frozen=True)
class Size:
    """A model of the paper, its rank, and what follows for full Adam and for GaLore.

    `adam` and `matched` are (decimal GB, GiB); `with_mask` adds one byte for every weight of
    attention and feed-forward, as the reference stores its mask, in GB.
    """

    width: int
    inner: int
    layers: int
    rank: int
    density: float
    adam: tuple[float, float]
    matched: tuple[float, float]
    with_mask: float

    @property
    def linear(self) -> int:
        return self.layers * (4 * self.width * self.width + 3 * self.width * self.inner)

    @property
    def other(self) -> int:
        return 2 * 32000 * self.width + (2 * self.layers + 1) * self.width

    @property
    def low_rank(self) -> int:
        """Elements of a projector and two moments, over all matrices."""
        square = self.rank * self.width + 2 * self.rank * self.width
        oblong = self.rank * self.width + 2 * self.rank * self.inner
        return self.layers * (4 * square + 3 * oblong)


SIZES = {
    "llama_60m": Size(512, 1376, 8, 128, 0.3225388601, (0.348, 0.325), (0.280, 0.261), 0.305),
    "llama_130m": Size(768, 2048, 12, 256, 0.4305555556, (0.805, 0.749), (0.611, 0.569), 0.696),
    "llama_350m": Size(1024, 2736, 24, 256, 0.3228218466, (2.208, 2.056), (1.389, 1.293), 1.691),
    "llama_1b": Size(2048, 5461, 24, 512, 0.3229196338, (8.034, 7.483), (4.763, 4.436), 5.971),
}


def config_of(model: str, optimizer: str, *overrides: str) -> RunConfig:
    given = ["scale=paper", f"model={model}", f"optimizer={optimizer}", "precision=bf16"]
    return compose_run([*given, *overrides])


@cache
def account_of(model: str, optimizer: str) -> Memory:
    return run_memory(config_of(model, optimizer))


def shown(size: float) -> tuple[float, float]:
    return round(size / 1e9, 3), round(size / 2**30, 3)


@pytest.mark.parametrize("model", SIZES)
def test_adam_takes_three_times_its_weights(model: str) -> None:
    size, found = SIZES[model], account_of(model, "adam")
    assert found.entries == size.linear + size.other
    assert found.weights == found.trained == BF16 * found.entries
    assert found.of("moments") == 2 * found.weights
    assert found.of("masks") == found.of("projectors") == 0
    tensors = 9 * size.layers + 3
    assert found.of("other") == 4 * tensors, "torch counts steps in float32, one a tensor"
    assert shown(found.weights + found.of("moments")) == size.adam


@pytest.mark.parametrize("model", SIZES)
def test_galore_takes_what_its_paper_counts(model: str) -> None:
    size, found = SIZES[model], account_of(model, "galore")
    assert found.of("moments") + found.of("projectors") == BF16 * (2 * size.other + size.low_rank)
    assert found.of("projectors") == BF16 * size.layers * 7 * size.rank * size.width
    assert found.of("masks") == 0
    assert shown(found.total) == size.matched


@pytest.mark.parametrize("model", SIZES)
def test_sparse_spam_takes_what_galore_takes(model: str) -> None:
    size, found = SIZES[model], account_of(model, "spam_sparse")
    exact = BF16 * (2 * size.other + 2 * size.density * size.linear)
    # An exact share of every matrix, rounded to whole entries: 7 matrices a layer, m and v.
    assert found.of("moments") == pytest.approx(exact, abs=BF16 * 2 * 7 * size.layers)
    assert found.of("masks") == 0, "a random mask is its seed"
    assert shown(found.weights + found.of("moments")) == size.matched


@pytest.mark.parametrize("model", SIZES)
def test_the_density_is_where_spam_equals_galore(model: str) -> None:
    """From the accounts: what GaLore adds to the dense part, over what full moments would add."""
    size, galore, adam = SIZES[model], account_of(model, "galore"), account_of(model, "adam")
    dense = 2 * BF16 * size.other
    density = (galore.of("moments") + galore.of("projectors") - dense) / (
        adam.of("moments") - dense
    )
    assert density == pytest.approx(size.density, abs=1e-10)
    assert config_of(model, "spam_sparse").optimizer.density == pytest.approx(density, abs=1e-10)


@pytest.mark.parametrize("model", SIZES)
def test_the_papers_estimate_leaves_out_the_mask(model: str) -> None:
    """The printed figures beside the code's: none counts the reference's boolean mask."""
    size, found = SIZES[model], account_of(model, "galore")
    published = float(paper.TABLE3_MEMORY["galore"][model])
    assert published == float(paper.TABLE3_MEMORY["spam_sparse"][model])
    assert round((found.total + size.linear) / 1e9, 3) == size.with_mask
    assert 1.05 < found.total / 1e9 / published < 1.18, "GaLore's own column is too low"
    full = float(paper.TABLE3_MEMORY["adam"][model])
    assert min(abs(full / unit - 1) for unit in size.adam) < 0.05


@pytest.mark.parametrize("name", groups()["optimizer"])
def test_every_optimizer_is_accounted_for(name: str) -> None:
    """All state has a purpose: a new key that no pattern knows shows here."""
    found = run_memory(compose_run([f"optimizer={name}", "scale=nano"]))
    tensors = len(run_shapes(compose_run([f"optimizer={name}", "scale=nano"]))[0])
    assert found.of("other") <= 16 * tensors, found.state
    assert found.optimizer == sum(found.of(kind) for kind in KINDS)
    assert found.optimizer > 0


@pytest.mark.parametrize("optimizer", ["adam", "galore", "spam_sparse"])
def test_two_layers_tell_of_all(optimizer: str) -> None:
    """What is counted on shallow real models equals what the whole one takes."""
    config = compose_run([f"optimizer={optimizer}", "scale=nano", "model=llama_130m"])
    assert config.model.num_hidden_layers == 3
    one, two, three = (memory.on_cpu(config, layers) for layers in (1, 2, 3))
    carried = extended(one, two, 3)
    assert (carried.state, carried.weights) == (three.state, three.weights)
    assert carried.how == "cpu tensors of 1 and 2 layers, carried on to 3"
    assert run_memory(config).state == three.state


def test_a_stored_mask_is_counted() -> None:
    """Selection by magnitude must keep what it chose, in at most a bit for every entry."""
    overrides = ["optimizer=spam_sparse", "scale=nano", "optimizer.selection=weight_magnitude"]
    found = run_memory(compose_run(overrides))
    sizes = [
        size
        for _, kind, size in run_shapes(compose_run(overrides))[0]
        if kind in ("attention", "ffn")
    ]
    matrices = sum(rows * columns for rows, columns in sizes)
    assert 0 < found.of("masks") <= matrices / 8 + 8 * len(sizes)


def test_keys_have_a_purpose() -> None:
    keys = {"exp_avg_sq_row": "moments", "momentum_buffer": "moments", "mask_bits": "masks"}
    keys |= {"projector": "projectors", "basis_0": "projectors", "step": "other", "RMS": "other"}
    assert {key: kind_of(key) for key in keys} == keys


def test_memory_counts_once_and_whole() -> None:
    """A view keeps what it is cut from, and two views of one piece of memory share it."""
    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight])
    whole = torch.zeros(100, dtype=torch.float64)
    optimizer.state[weight] = {"exp_avg": whole[:2], "exp_avg_sq": whole[2:4], "step": 3}
    assert state_bytes(optimizer) == {"exp_avg": 800, "exp_avg_sq": 0}
