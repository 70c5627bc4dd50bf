"""The IDX format of MNIST-like files, and the four files of Fashion-MNIST with their checksums.

An IDX file is a magic number (two zero bytes, the type, the number of dimensions), the length of
every dimension as a big-endian 32-bit number, and the values. What is read is checked against the
sha256 of the uncompressed content, so that a damaged, truncated or other file is never trained on.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spam_lab.data.errors import DataError

UNSIGNED_BYTES = 0x08
"""The type that these files have."""

FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""File without its suffix `.gz` -> sha256 of the uncompressed content. As packaged by Debian."""


def fashion_mnist(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [N, 28, 28] and labels [N] of a part, "train" or "t10k".

    Raises:
        DataError: a file is missing, damaged or another one.
    """
    images, labels = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    return read(folder, images, FASHION_MNIST[images]), read(folder, labels, FASHION_MNIST[labels])


def read(folder: Path, name: str, sha256: str) -> NDArray[np.uint8]:
    """The values of the file `name`, or of `name.gz`, of which the content has this sha256.

    Raises:
        DataError: the file is missing, cannot be unpacked, or has another content.
    """
    content = _content(folder, name)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{folder / name} is damaged or another file: its content has the sha256 {found}, not "
            f"{sha256}"
        )
    return parse(content, str(folder / name))


def parse(content: bytes, name: str) -> NDArray[np.uint8]:
    """The array that an uncompressed IDX file holds; `name` is what errors call it.

    Raises:
        DataError: it is no IDX file of unsigned bytes, or has more or fewer bytes than it says.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTES:
        raise DataError(f"{name} is no IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{name} is truncated: it ends within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{name} is truncated or damaged: {len(content) - start} values, not {math.prod(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(folder: Path, name: str) -> bytes:
    try:
        for path, opened in ((folder / f"{name}.gz", gzip.open), (folder / name, open)):
            if path.is_file():
                with opened(path, "rb") as file:
                    return bytes(file.read())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{folder / name}: {error}") from None
    raise DataError(f"{folder / name}.gz is missing")
