"""Where streamed documents come from: a repository of the Hugging Face hub, or local JSON lines.

It owns how `datasets` is opened and read, and promises a `DataError` that says what to do, within
seconds, wherever the text cannot be had. Documents are read shard by shard; a place between two of
them can be saved as JSON-able values and returned to exactly.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

from spam_lab.config.schema import DataConfig
from spam_lab.data.errors import DataError

_HUB_TIMEOUT = 10.0  # seconds
_ADVICE = (
    "Take data=embedded, which needs no network, or give data.files and data.validation_files, "
    "globs of a local mirror's JSON-lines files (.gz is fine)"
)


class Source:
    """The documents of one split, in numbered shards.

    `name` says which, for people; `identity` says it wherever the same files are kept.
    """

    def __init__(self, name: str, identity: str, dataset: Any) -> None:
        """Take over a `datasets.IterableDataset` whose examples have a `text`."""
        self.name = name
        self.identity = identity
        self.shards = int(dataset.num_shards)
        self._dataset = dataset

    def shard(self, number: int, state: dict[str, Any] | None = None) -> Shard:
        """Shard `number` from its start, or from where `state` was taken."""
        shard = self._dataset.shard(num_shards=self.shards, index=number)
        if state is not None:
            shard.load_state_dict(state)
        return Shard(self.name, shard)


class Shard:
    """The rest of one shard's documents."""

    def __init__(self, name: str, dataset: Any) -> None:
        """Start reading at the dataset's current state."""
        self._name = name
        self._dataset = dataset
        self._texts = self._read()

    def take(self, count: int) -> list[str]:
        """The next `count` documents, or as many as are left."""
        return list(islice(self._texts, count))

    def state(self) -> dict[str, Any]:
        """Where the documents taken so far end, as JSON-able values."""
        state: dict[str, Any] = self._dataset.state_dict()
        return state

    def _read(self) -> Iterator[str]:
        try:
            for example in self._dataset:
                yield example["text"]
        except KeyError as error:
            raise DataError(f"{self._name}: a document without a `text`") from error
        except Exception as error:  # whatever network, codec or parser the file needed
            raise DataError(f"{self._name} cannot be read any further: {_cause(error)}") from error


def open_source(config: DataConfig, split: str) -> Source:
    """The documents of `split` (train or validation).

    Raises:
        DataError: if there is no such file, or the hub or the repository cannot be reached.
    """
    pattern = config.files if split == "train" else config.validation_files
    if pattern is not None:
        return _local(pattern, "data.files" if split == "train" else "data.validation_files")
    if config.hub_name is None:
        raise DataError(f"neither data.hub_name nor data.files is given. {_ADVICE}")
    return _hub(config.hub_name, config.hub_subset, split)


def _local(pattern: str, key: str) -> Source:
    paths = sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise DataError(f"{key}={pattern} matches no file. {_ADVICE}")
    identity = " ".join(os.path.basename(path) for path in paths)
    try:
        # Escaped, because datasets would read a * or [ in a name as a pattern.
        dataset = _load("json", data_files=[glob.escape(path) for path in paths], split="train")
    except Exception as error:  # datasets reads the first file to learn its columns
        raise DataError(f"{key}={pattern}: {paths[0]} cannot be read: {_cause(error)}") from error
    return Source(f"{key}={pattern}", identity, dataset)


def _hub(name: str, subset: str | None, split: str) -> Source:
    import huggingface_hub

    label = f"{name}{f'/{subset}' if subset else ''} ({split})"
    try:
        # Asked first because datasets retries an unreachable hub for half a minute.
        huggingface_hub.HfApi().dataset_info(name, timeout=_HUB_TIMEOUT)
        return Source(label, label, _load(name, subset, split=split))
    except Exception as error:
        raise DataError(
            f"{label} cannot be had from the hub: {_cause(error)}. {_ADVICE}"
        ) from error


def _load(*arguments: Any, **options: Any) -> Any:
    # Slow to import, and only streams need it.
    import datasets  # type: ignore[import-untyped]

    return datasets.load_dataset(*arguments, streaming=True, **options)


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
