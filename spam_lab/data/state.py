"""What a saved position in the data belongs to.

It promises that a position is only ever continued on the data it was taken from: the same text,
tokenizer, cutting and seed.
"""

from __future__ import annotations

from typing import Any

from spam_lab.config.schema import DataConfig
from spam_lab.data.errors import DataError
from spam_lab.data.tokenizer import Tokenizer


def describe(
    config: DataConfig, tokenizer: Tokenizer, *, data_seed: int, corpus: str
) -> dict[str, Any]:
    """All that decides the batches, as JSON-able values. `corpus` names the text."""
    return {
        "corpus": corpus,
        "tokenizer": tokenizer.fingerprint,
        "layout": config.layout,
        "sequence_length": config.sequence_length,
        "batch_size": config.batch_size,
        "data_seed": data_seed,
    }


def matching(state: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
    """`state`, if it was taken from the data that `identity` describes.

    Raises:
        DataError: naming every difference.
    """
    saved = state.get("data", {})
    differences = [
        f"{key}: {saved.get(key)!r} there, {identity.get(key)!r} here"
        for key in sorted({*saved, *identity})
        if saved.get(key) != identity.get(key)
    ]
    if differences:
        raise DataError(f"a position in other data: {'; '.join(differences)}")
    return state
