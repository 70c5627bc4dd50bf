"""What is worked out from the code alone and takes long, kept between builds.

It promises values that this very code and these very libraries made: a file of another state of
the code, or one that is not as it was written, is empty. It holds JSON, is written whole, may be
deleted at any time, and where it cannot be written the next build is only slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import spam_lab
from spam_lab.files import dump_json, read_json, write_json

LIBRARIES = ("torch", "transformers", "numpy")
"""Libraries that can change what the code makes."""


@contextlib.contextmanager
def kept(root: Path, name: str) -> Iterator[dict[str, Any]]:
    """The values kept under a name beside the runs in `root`; those added in the block are too.

    Keys must say all that decides a value besides the code; values are what JSON can hold.
    """
    path = root / ".cache" / f"{name}.json"
    values = _read(path)
    before = dict(values)
    yield values
    if values != before:
        with contextlib.suppress(OSError):
            write_json(path, {"seal": _seal(values), "values": values})


@cache
def code_digest() -> str:
    """The sha256 of every module of spam_lab and of this package, and of what they run with."""
    digest = hashlib.sha256(platform.python_version().encode())
    for library in LIBRARIES:
        digest.update(f" {library} {metadata.version(library)}".encode())
    for folder in (Path(spam_lab.__file__).parent, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"\n{path.relative_to(folder.parent)} ".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    values = content.get("values") if isinstance(content, dict) else None
    return values if isinstance(values, dict) and content.get("seal") == _seal(values) else {}


def _seal(values: dict[str, Any]) -> str:
    """What these values of this code are known by."""
    content = dump_json([code_digest(), sorted(values.items())])
    return hashlib.sha256(content.encode()).hexdigest()
