"""The embedded corpus: United States annual messages and State of the Union addresses, in the
repository.

It owns the shipped files (`README.md` beside this file tells where they come from and how to
rebuild them) and the split into training and validation documents. It promises the same documents
in the same order everywhere, and that no address has a part in both splits.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
DOCUMENTS = FOLDER / "documents.jsonl.xz"

# Chosen among the first dozen numbers for a validation split of 6 to 10 % of the text in which
# every decade has another president.
_SPLIT_SALT = "4/"


@dataclass(frozen=True)
class Document:
    """One address: `id` is YEAR-PRESIDENT-NUMBER, `text` has one paragraph a line."""

    id: str
    title: str
    text: str


def tokenizer_file(name: str) -> Path:
    """Where the shipped tokenizer `name` (bpe_1000, bpe_4000) is kept."""
    return FOLDER / f"tokenizer_{name}.json"


def fingerprint() -> str:
    """sha256 of the shipped documents, in hex."""
    return hashlib.sha256(DOCUMENTS.read_bytes()).hexdigest()


def documents(split: str) -> list[Document]:
    """The documents of `split` (train or validation), by id."""
    with lzma.open(DOCUMENTS, "rt", encoding="utf-8") as lines:
        everything = [Document(**json.loads(line)) for line in lines]
    return split_of(everything, split)


def split_of(everything: Iterable[Document], split: str) -> list[Document]:
    """Those of `everything` that belong to `split`.

    In every decade the validation documents are those of the year and president whose name has the
    smallest salted hash. Year and president are kept together because a spoken address and the
    written message of the same year repeat each other.
    """
    everything = list(everything)
    winners: dict[str, str] = {}
    for address in sorted({_address(document.id) for document in everything}, key=_draw):
        winners.setdefault(address[:3], address)
    chosen = set(winners.values())
    return [d for d in everything if (_address(d.id) in chosen) == (split == "validation")]


def _address(document_id: str) -> str:
    """YEAR-PRESIDENT of YEAR-PRESIDENT-NUMBER."""
    return document_id.rpartition("-")[0]


def _draw(address: str) -> str:
    return hashlib.sha256((_SPLIT_SALT + address).encode()).hexdigest()
