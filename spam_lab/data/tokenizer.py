"""Tokenizers, by name: the shipped byte-level BPEs, T5's, and any fast tokenizer of transformers.

It promises that text alone decides the ids: no special token is added, text that spells one out is
read as text wherever the tokenizer allows it, and an id beyond `text_vocab_size` never comes out.
Code from a hub repository is never run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers

from spam_lab.config.fields import ConfigError, Problem
from spam_lab.data.embedded import tokenizer_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHIPPED = ("bpe_1000", "bpe_4000")
END_OF_TEXT = "<|endoftext|>"

_HUB_NAMES = {"t5": "google-t5/t5-base"}
_SENTINEL = re.compile(r"<extra_id_\d+>")
_HUB_TIMEOUT = 10.0  # seconds


class Tokenizer:
    """Text to ids.

    `vocab_size` counts all ids; `text_vocab_size` those that text can have: T5's topmost 100 ids
    are the sentinels of its span corruption, which models with 32000 rows leave out, as the paper's
    do. `fingerprint` is the sha256 of all that decides the ids.
    """

    def __init__(self, name: str, backend: tokenizers.Tokenizer, end_of_text: str) -> None:
        """Take over `backend`, whose truncation and padding are switched off."""
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.name = name
        self.vocab_size = max(vocabulary.values()) + 1
        self.text_vocab_size = 1 + max(
            number for token, number in vocabulary.items() if not _SENTINEL.fullmatch(token)
        )
        self.eos_id = vocabulary[end_of_text]
        self.fingerprint = hashlib.sha256(backend.to_str().encode()).hexdigest()
        self._backend = backend

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without any special token."""
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._without_sentinels(encoding.ids) for encoding in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def _without_sentinels(self, ids: list[int]) -> list[int]:
        # T5's model reads a literal <extra_id_0> in a web page as the sentinel itself.
        if ids and max(ids) >= self.text_vocab_size:
            return [number for number in ids if number < self.text_vocab_size]
        return ids


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer `name`: bpe_1000, bpe_4000, t5, a hub name, or a local folder.

    Raises:
        ConfigError: if it cannot be had or used, with what to do.
    """
    if name in SHIPPED:
        return Tokenizer(
            name, tokenizers.Tokenizer.from_file(str(tokenizer_file(name))), END_OF_TEXT
        )
    pretrained = _pretrained(name)
    backend, end_of_text = getattr(pretrained, "backend_tokenizer", None), pretrained.eos_token
    if backend is None or end_of_text is None:
        raise _refused(name, "a tokenizer with a fast implementation and an end-of-text token")
    return Tokenizer(name, backend, str(end_of_text))


def check_vocabulary(tokenizer: Tokenizer, model_vocab_size: int) -> None:
    """Refuse a tokenizer whose text can have ids that a model has no row for.

    Raises:
        ConfigError: naming both sizes.
    """
    if tokenizer.text_vocab_size > model_vocab_size:
        raise _refused(
            tokenizer.name,
            f"it has {tokenizer.text_vocab_size} ids and model.vocab_size={model_vocab_size}; "
            f"choose a smaller tokenizer ({', '.join(SHIPPED)} are shipped), "
            f"or raise model.vocab_size",
        )


def _pretrained(name: str) -> PreTrainedTokenizerBase:
    """What transformers has under `name`: from a folder or the hub's cache, else from the hub."""
    place = _HUB_NAMES.get(name, name)
    try:
        return _from_pretrained(place, local_files_only=True)
    except Exception as error:
        if Path(place).is_dir():
            allowed = f"transformers cannot read a tokenizer from this folder: {_reason(error)}"
            raise _refused(name, allowed) from error
    import huggingface_hub

    try:
        # Asked first because transformers retries an unreachable hub for most of a minute.
        huggingface_hub.HfApi().model_info(place, timeout=_HUB_TIMEOUT)
        return _from_pretrained(place, local_files_only=False)
    except Exception as error:
        raise _refused(
            name,
            f"{place} is neither a local folder, nor in the Hugging Face cache, nor to be had "
            f"from the hub ({_reason(error)}). Set HF_HOME to a cache that has it or HF_ENDPOINT "
            f"to a mirror, give a folder that holds its tokenizer.json, or take the shipped "
            f"data.tokenizer=bpe_4000",
        ) from error


def _from_pretrained(place: str, *, local_files_only: bool) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer  # slow to import, and the shipped ones need none of it

    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        place, local_files_only=local_files_only, trust_remote_code=False
    )
    return loaded


def _refused(name: str, allowed: str) -> ConfigError:
    return ConfigError.of([Problem("data.tokenizer", name, allowed)])


def _reason(error: Exception) -> str:
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first_line}"
