"""The data room's contract with the train room: where batches come from, and what they promise.

The same config and data seed give the same batches on any machine, whatever the number of
workers. A position is saved as JSON-able values and continues exactly. The validation set is fixed:
no seed enters it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from spam_lab.config.schema import DataConfig
from spam_lab.data.rows import Batch, validation_batches
from spam_lab.data.tokenizer import Tokenizer, check_vocabulary, load_tokenizer


class TrainingData(Protocol):
    """An endless sequence of global batches, with a position that can be saved."""

    def next_batch(self) -> Batch:
        """The next batch: int64 [batch_size, sequence_length]. DataError if it cannot be read."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where the batches handed out so far end, as JSON-able values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the last batch that `state` knew of. DataError if of other data."""
        ...

    def close(self) -> None:
        """Stop reading ahead. May be called twice; no batch can be had afterwards."""
        ...


def open_training_data(
    config: DataConfig, *, data_seed: int, vocab_size: int, cache: Path
) -> TrainingData:
    """The training batches that `config` describes, from the first.

    `vocab_size` is the model's; `cache` is a folder for tokenized text that may be deleted.

    Raises:
        ConfigError: if the tokenizer cannot be had, or has ids that the model has no row for.
        DataError: if the text cannot be reached.
    """
    tokenizer = _tokenizer(config, vocab_size)
    if config.source == "embedded":
        from spam_lab.data.packed import EmbeddedTrainingData

        return EmbeddedTrainingData(config, tokenizer, data_seed=data_seed, cache=cache)
    from spam_lab.data.stream import StreamTrainingData

    return StreamTrainingData(config, tokenizer, data_seed=data_seed)


def open_validation_data(
    config: DataConfig, *, tokens: int, vocab_size: int, cache: Path
) -> list[Batch]:
    """Rows of the validation text that predict at most `tokens` tokens, always the same.

    Of the embedded text they are spread evenly over all its documents; a stream is read in order.

    Every batch has batch_size rows, but for the last.

    Raises:
        ConfigError: if the tokenizer cannot be had, or has ids that the model has no row for.
        DataError: if the text cannot be reached, or `tokens` is less than one row predicts.
    """
    tokenizer = _tokenizer(config, vocab_size)
    if config.source == "embedded":
        from spam_lab.data.packed import validation_rows

        rows = validation_rows(config, tokenizer, cache)
    else:
        from spam_lab.data.stream import validation_rows as streamed_validation_rows

        rows = streamed_validation_rows(config, tokenizer)
    return validation_batches(rows, tokens, config.batch_size)


def _tokenizer(config: DataConfig, vocab_size: int) -> Tokenizer:
    tokenizer = load_tokenizer(config.tokenizer)
    check_vocabulary(tokenizer, vocab_size)
    return tokenizer
