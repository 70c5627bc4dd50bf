"""Streams, through the real `datasets` library, over files in C4's format written here."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spam_lab.config.schema import DataConfig
from spam_lab.data import (
    Batch,
    DataError,
    TrainingData,
    embedded,
    open_training_data,
    open_validation_data,
)
from spam_lab.data.documents import START, ShuffledDocuments
from spam_lab.data.order import permutation
from spam_lab.data.source import Source
from spam_lab.data.tokenizer import load_tokenizer

LENGTH, BATCH, BLOCK = 32, 5, 16
SHARD_SIZES = (23, 40, 1, 30)  # none a multiple of a block


@pytest.fixture(scope="module")
def shards() -> list[list[str]]:
    """Paragraphs of the embedded documents: short and long ones."""
    texts = [d.text for d in embedded.documents("validation")]
    paragraphs = iter([p for text in texts for p in text.split("\n")])
    return [[next(paragraphs) for _ in range(size)] for size in SHARD_SIZES]


@pytest.fixture(scope="module")
def mirror(shards: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirror")
    for number, texts in enumerate(shards):
        name = folder / f"c4-train.{number:05d}-of-{len(shards):05d}.json.gz"
        with gzip.open(name, "wt", encoding="utf-8") as file:
            for text in texts:
                example = {"text": text, "timestamp": "2019-04-24T10:10:10Z", "url": "http://x/"}
                file.write(json.dumps(example) + "\n")
    return folder


@pytest.fixture
def training(mirror: Path) -> Callable[..., TrainingData]:
    def opened(data_seed: int = 0, **changes: Any) -> TrainingData:
        return open_training_data(
            config(mirror, **changes), data_seed=data_seed, vocab_size=1000, cache=mirror / "cache"
        )

    return opened


def config(mirror: Path, **changes: Any) -> DataConfig:
    values: dict[str, Any] = {
        "name": "c4",
        "source": "hub",
        "tokenizer": "bpe_1000",
        "layout": "document",
        "sequence_length": LENGTH,
        "batch_size": BATCH,
        "files": str(mirror / "c4-train.*.json.gz"),
        "validation_files": str(mirror / "c4-train.*.json.gz"),
        "shuffle_block": BLOCK,
    }
    return DataConfig(**values | changes)


def digest(batch: Batch) -> str:
    content = batch.input_ids.numpy().tobytes() + batch.labels.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def naive_documents(shards: list[list[str]], data_seed: int, epochs: int) -> list[list[int]]:
    """The token ids of the documents in the promised order, derived the simplest way."""
    texts = []
    for epoch in range(epochs):
        order = permutation(len(shards), data_seed, epoch)
        flat = [text for number in order for text in shards[number]]
        for block, start in enumerate(range(0, len(flat), BLOCK)):
            part = flat[start : start + BLOCK]
            texts += [part[i] for i in permutation(len(part), data_seed, epoch, block)]
    return load_tokenizer("bpe_1000").encode_batch(texts)


@pytest.mark.parametrize("workers", [0, 2])
def test_document_rows_over_epochs(
    training: Callable[..., TrainingData], shards: list[list[str]], workers: int
) -> None:
    rows = [([*ids[: LENGTH - 1], 0], ids) for ids in naive_documents(shards, 3, epochs=3)]
    data = training(data_seed=3, workers=workers)
    for start in range(0, len(rows) - BATCH, BATCH):
        batch = data.next_batch()
        expected = [kept for kept, _ in rows[start : start + BATCH]]
        padded = [kept + [-100] * (LENGTH - len(kept)) for kept in expected]
        assert batch.labels.tolist() == padded
        for row, kept in zip(batch.input_ids.tolist(), expected, strict=True):
            assert row[: len(kept)] == kept
    data.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_packed_rows_over_epochs(
    training: Callable[..., TrainingData], shards: list[list[str]], workers: int
) -> None:
    joined = [i for ids in naive_documents(shards, 0, epochs=2) for i in [*ids, 0]]
    data = training(layout="packed", workers=workers)
    size = BATCH * LENGTH
    for start in range(0, len(joined) - size, size):
        assert data.next_batch().input_ids.flatten().tolist() == joined[start : start + size]
    data.close()


@pytest.mark.parametrize("layout", ["document", "packed"])
def test_workers_change_neither_batches_nor_states(
    training: Callable[..., TrainingData], layout: str
) -> None:
    plain, ahead = training(layout=layout), training(layout=layout, workers=3)
    for _ in range(25):
        assert digest(plain.next_batch()) == digest(ahead.next_batch())
        assert plain.state_dict() == ahead.state_dict()
    ahead.close()
    ahead.close()


@given(
    st.integers(0, 45),
    st.sampled_from(["document", "packed"]),
    st.sampled_from([0, 2]),
    st.sampled_from([0, 2]),
)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_continues_exactly_from_any_step(
    training: Callable[..., TrainingData], step: int, layout: str, before: int, after: int
) -> None:
    whole = training(layout=layout, workers=before)
    for _ in range(step):
        whole.next_batch()
    state = json.loads(json.dumps(whole.state_dict()))  # as a checkpoint may keep it
    resumed = training(layout=layout, workers=after)
    resumed.next_batch()  # a position may be loaded after reading has begun
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    for _ in range(6):
        assert digest(whole.next_batch()) == digest(resumed.next_batch())
        assert whole.state_dict() == resumed.state_dict()
    whole.close()
    resumed.close()


def test_seeds_read_other_documents_first(training: Callable[..., TrainingData]) -> None:
    first, again, other = (training(data_seed=seed).next_batch() for seed in (0, 0, 1))
    assert digest(first) == digest(again)
    assert digest(first) != digest(other)


def test_a_mirror_that_moved_continues(
    training: Callable[..., TrainingData], mirror: Path, tmp_path: Path
) -> None:
    here = training()
    here.next_batch()
    for path in mirror.glob("*.json.gz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    there = training(files=str(tmp_path / "*.json.gz"))
    there.load_state_dict(here.state_dict())
    assert digest(there.next_batch()) == digest(here.next_batch())
    with pytest.raises(DataError, match="corpus"):
        training(files=str(tmp_path / "*.00000-*.json.gz")).load_state_dict(here.state_dict())


def test_validation_is_in_file_order(mirror: Path, shards: list[list[str]]) -> None:
    opened = open_validation_data(
        config(mirror), tokens=10**6, vocab_size=1000, cache=mirror / "cache"
    )
    texts = [text for shard in shards for text in shard]
    ids = load_tokenizer("bpe_1000").encode_batch(texts)
    rows = [row for batch in opened for row in batch.labels.tolist()]
    assert [[i for i in row if i != -100] for row in rows] == [[*i[: LENGTH - 1], 0] for i in ids]


def test_missing_files_are_named(training: Callable[..., TrainingData], mirror: Path) -> None:
    with pytest.raises(DataError, match=r"data\.files=.*nothing.*matches no file.*data=embedded"):
        training(files=str(mirror / "nothing*.gz"))
    with pytest.raises(DataError, match=r"data\.validation_files=.*matches no file"):
        open_validation_data(
            config(mirror, validation_files="nothing"), tokens=9, vocab_size=1000, cache=mirror
        )


def test_unreadable_files_are_named(training: Callable[..., TrainingData], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"words": "a document without text"}\n')
    with pytest.raises(DataError, match="without a `text`"):
        training(files=str(tmp_path / "a.json")).next_batch()
    (tmp_path / "b.0.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 5000))
    (tmp_path / "b.1.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 5000)[:-30])
    data = training(files=str(tmp_path / "b.?.gz"), shuffle_block=10_000, workers=1)
    with pytest.raises(DataError, match=r"data\.files=.*cannot be read any further"):
        data.next_batch()
    with pytest.raises(DataError, match="has failed"):
        data.next_batch()
    data.close()
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(DataError, match=r"empty\.json cannot be read"):
        training(files=str(tmp_path / "empty.json"))


def test_no_document_at_all_is_an_error_and_not_an_endless_loop() -> None:
    import datasets

    nothing = datasets.IterableDataset.from_generator(lambda: iter(()))
    documents = ShuffledDocuments(
        Source("nothing", "nothing", nothing), data_seed=0, block=9, chunk=9
    )
    with pytest.raises(DataError, match="nothing holds no document"):
        next(documents.chunks(START, 0))


def test_unreachable_hub_says_what_to_do(
    training: Callable[..., TrainingData], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"allenai/c4/en \(train\).*no network.*data=embedded"):
        training(files=None, hub_name="allenai/c4", hub_subset="en")
    assert time.perf_counter() - start < 10
    with pytest.raises(DataError, match=r"neither data\.hub_name nor data\.files"):
        training(files=None)
