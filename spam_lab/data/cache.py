"""A cache of token ids: one array a file, named after what made it and what it holds.

It promises that what is loaded is what was written: a file whose content no longer matches its
name is removed and made again. Writes are atomic, so any number of processes may build the same
array at once; a removed file is only slower.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spam_lab.files import replacing

TokenArray = NDArray[np.uint16] | NDArray[np.uint32]

_DIGITS = 16


def cached_tokens(folder: Path, name: str, key: str, make: Callable[[], TokenArray]) -> TokenArray:
    """The one-dimensional array that `make` gives, memory-mapped from `folder`.

    `key` must name everything that decides the array; `name` is only for people.
    """
    stem = f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:_DIGITS]}"
    for path in sorted(folder.glob(f"{stem}-*.npy")):
        found = _load(path)
        if found is not None:
            return found
        path.unlink(missing_ok=True)
    found = _load(_write(folder, stem, make()))
    if found is None:
        raise OSError(f"{folder} does not keep what is written to it")
    return found


def _load(path: Path) -> TokenArray | None:
    """The array in `path`, or None if the content is not what the name says."""
    try:
        content = path.read_bytes()
        if _digest(content) != path.stem.rpartition("-")[2]:
            return None
        array: TokenArray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except (OSError, ValueError):
        return None


def _write(folder: Path, stem: str, array: TokenArray) -> Path:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    path = folder / f"{stem}-{_digest(buffer.getvalue())}.npy"
    with replacing(path) as file:
        file.write(buffer.getvalue())
    return path


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
