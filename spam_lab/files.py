"""Files that are whole or absent: JSON and bytes are written beside their place, flushed to the
disk and renamed over it, so that a reader never sees half a file and a full disk never costs the
old one.

JSON here is strict: a number that is not finite is written as the string "NaN", "Infinity" or
"-Infinity" (as protobuf does) and `number_from` turns it back.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def remove_partial(folder: Path) -> None:
    """Remove what a killed process was writing in `folder`; only for its one writer."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as strict JSON, whole or not at all."""
    with replacing(path) as file:
        file.write(dump_json(content, indent=1).encode() + b"\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises FileNotFoundError, or ValueError naming a damaged file."""
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from None


def dump_json(content: Any, indent: int | None = None) -> str:
    """Strict JSON; numbers that are not finite become strings."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def number_from(value: float | str) -> float:
    """A number as it was before `dump_json`."""
    return float(value)


def read_lines(path: Path, use: Callable[[dict[str, Any]], None]) -> int:
    """Feed every whole JSON line of `path` to `use`; return the byte offset after the last one.

    A last line cut short by a crash is left out. An absent file has no lines.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0
    end = 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            use(json.loads(line))
        except ValueError:
            break
        end += len(line)
    return end


def _finite(content: Any) -> Any:
    if isinstance(content, float) and not math.isfinite(content):
        return "NaN" if math.isnan(content) else ("Infinity" if content > 0 else "-Infinity")
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
