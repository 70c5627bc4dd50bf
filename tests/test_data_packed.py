"""Training on the embedded corpus: pinned batches, exact continuation, and the token cache."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import DataConfig
from spam_lab.data import (
    IGNORED,
    Batch,
    DataError,
    TrainingData,
    embedded,
    open_training_data,
    open_validation_data,
)
from spam_lab.data.cache import cached_tokens
from spam_lab.data.order import spread
from spam_lab.data.tokenizer import load_tokenizer


def config(**changes: Any) -> DataConfig:
    values: dict[str, Any] = {
        "name": "embedded",
        "tokenizer": "bpe_1000",
        "sequence_length": 64,
        "batch_size": 4,
    }
    return DataConfig(**values | changes)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def training(cache: Path) -> Callable[..., TrainingData]:
    def opened(data_seed: int = 0, **changes: Any) -> TrainingData:
        return open_training_data(
            config(**changes), data_seed=data_seed, vocab_size=1000, cache=cache
        )

    return opened


def digest(batches: list[Batch]) -> str:
    content = b"".join(
        part.numpy().tobytes() for batch in batches for part in (batch.input_ids, batch.labels)
    )
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize(
    ("layout", "pinned"), [("packed", "5ea0b96db00866fc"), ("document", "6c88e46a09ce1c63")]
)
def test_batches_are_pinned_for_every_machine(
    training: Callable[..., TrainingData], layout: str, pinned: str
) -> None:
    data = training(layout=layout)
    assert digest([data.next_batch() for _ in range(8)]) == pinned


def test_seed_decides_the_order_alone(training: Callable[..., TrainingData]) -> None:
    first, again, other = (training(data_seed=seed).next_batch() for seed in (5, 5, 6))
    assert torch.equal(first.input_ids, again.input_ids)
    assert not torch.equal(first.input_ids, other.input_ids)
    assert first.input_ids.dtype == torch.int64
    assert first.input_ids.shape == (4, 64)
    assert torch.equal(first.input_ids, first.labels)


def test_rows_are_windows_of_the_training_text(training: Callable[..., TrainingData]) -> None:
    tokenizer = load_tokenizer("bpe_1000")
    texts = tokenizer.encode_batch([d.text for d in embedded.documents("train")])
    joined = [number for ids in texts for number in [*ids, tokenizer.eos_id]]
    windows = {tuple(joined[i : i + 64]) for i in range(0, len(joined) - 63, 64)}
    rows = [tuple(row) for row in training().next_batch().input_ids.tolist()]
    assert set(rows) <= windows

    data = training(layout="document", batch_size=len(texts))
    kept = sorted([*ids[:63], tokenizer.eos_id] for ids in texts)
    assert sorted(data.next_batch().input_ids.tolist()) == kept


@given(st.integers(0, 40), st.integers(0, 5), st.sampled_from(["packed", "document"]))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_continues_exactly_from_any_step(
    training: Callable[..., TrainingData], step: int, more: int, layout: str
) -> None:
    whole, resumed = training(layout=layout), training(layout=layout)
    for _ in range(step):
        whole.next_batch()
    resumed.load_state_dict(whole.state_dict())
    for _ in range(more):
        assert digest([whole.next_batch()]) == digest([resumed.next_batch()])
    assert whole.state_dict() == resumed.state_dict()


def test_position_in_other_data_is_refused(training: Callable[..., TrainingData]) -> None:
    state = training(data_seed=1).state_dict()
    with pytest.raises(DataError, match=r"data_seed: 1 there, 2 here"):
        training(data_seed=2).load_state_dict(state)
    with pytest.raises(DataError, match="corpus"):
        training(data_seed=2).load_state_dict({"step": 3})


def test_vocabulary_is_checked(cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"bpe_4000.*model\.vocab_size=1000"):
        open_training_data(config(tokenizer="bpe_4000"), data_seed=0, vocab_size=1000, cache=cache)


def test_too_long_a_sequence_is_refused(cache: Path) -> None:
    with pytest.raises(DataError, match="less than one row"):
        open_validation_data(
            config(sequence_length=10**6), tokens=10**7, vocab_size=1000, cache=cache
        )


@pytest.mark.parametrize("layout", ["packed", "document"])
def test_validation_is_a_fixed_amount_of_text(cache: Path, layout: str) -> None:
    def opened(tokens: int) -> list[Batch]:
        return open_validation_data(
            config(layout=layout, batch_size=4), tokens=tokens, vocab_size=1000, cache=cache
        )

    def rows(batches: list[Batch]) -> list[list[int]]:
        return [row for batch in batches for row in batch.input_ids.tolist()]

    few, many = opened(300), opened(10**9)
    predicted = sum(int((batch.labels[:, 1:] != IGNORED).sum()) for batch in few)
    assert 300 - 64 < predicted <= 300
    assert rows(many)[: len(rows(few))] == rows(few)
    texts = load_tokenizer("bpe_1000").encode_batch(
        [d.text for d in embedded.documents("validation")]
    )
    expected = sum(len(ids) + 1 for ids in texts) // 64 if layout == "packed" else 13
    assert len(rows(many)) == expected


def test_a_little_validation_is_spread_over_all_of_it(cache: Path) -> None:
    """4096 tokens come from every tenth of the split, no two rows from one place."""
    texts = load_tokenizer("bpe_1000").encode_batch(
        [d.text for d in embedded.documents("validation")]
    )
    ids = np.array([i for text in texts for i in (*text, 0)])
    windows = ids[: len(ids) // 64 * 64].reshape(-1, 64).tolist()
    few = open_validation_data(config(), tokens=4096, vocab_size=1000, cache=cache)
    taken = sorted(windows.index(row) for batch in few for row in batch.input_ids.tolist())
    share = np.array(taken) / len(windows)
    assert set((share * 10).astype(int)) == set(range(10))
    assert max(np.diff(share)) < 0.04


@pytest.mark.parametrize("count", [1, 2, 3, 13, 64, 2270])
def test_spreading_is_a_permutation(count: int) -> None:
    assert sorted(spread(count).tolist()) == list(range(count))


def test_opening_again_is_fast(training: Callable[..., TrainingData]) -> None:
    training()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        training().next_batch()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


def tokens(made: list[int]) -> Callable[[], Any]:
    def make() -> Any:
        made.append(1)
        return np.arange(1000, dtype=np.uint16)

    return make


def test_cache_is_mapped_and_made_once(tmp_path: Path) -> None:
    made: list[int] = []
    for _ in range(2):
        array = cached_tokens(tmp_path / "deep" / "cache", "name", "key", tokens(made))
        assert array.tolist() == list(range(1000))
        assert isinstance(array, np.memmap)
    assert len(made) == 1
    cached_tokens(tmp_path / "deep" / "cache", "name", "another key", tokens(made))
    assert len(made) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "pickle"])
def test_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    made: list[int] = []
    cached_tokens(tmp_path, "name", "key", tokens(made))
    (path,) = tmp_path.glob("*.npy")
    content = path.read_bytes()
    path.write_bytes(
        {
            "flip": content[:500] + bytes([content[500] ^ 1]) + content[501:],
            "cut": content[:-100],
            "empty": b"",
            "pickle": b"\x80\x04N.",
        }[damage]
    )
    assert cached_tokens(tmp_path, "name", "key", tokens(made)).tolist() == list(range(1000))
    assert len(made) == 2
    assert path.read_bytes() == content


def _build(folder: Path) -> list[int]:
    def make() -> Any:
        time.sleep(0.3)  # so that both are at it
        return np.arange(1000, dtype=np.uint16)

    return list(cached_tokens(folder, "name", "key", make).tolist())


def test_two_processes_build_the_cache_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        built = pool.map(_build, [tmp_path, tmp_path], chunksize=1)
    assert built == [list(range(1000))] * 2
    assert len(list(tmp_path.iterdir())) == 1
