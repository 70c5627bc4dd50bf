"""The MLflow UI that is up over a record: `spam-lab ui` leaves its address beside the runs for as
long as it serves, and whoever links to runs finds it there.

It promises that an address is told only if the process that left it still lives on this computer,
serves the store that is asked about, and answers. A file that a killed UI left behind is no harm.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import psutil

from spam_lab.files import read_json, write_json
from spam_lab.record.mlflow_store import shown

FILE = ".ui.json"
ANSWER_SECONDS = 2.0


@contextlib.contextmanager
def announced(runs: Path, address: str, uri: str) -> Iterator[None]:
    """Leave the address of a server that this process runs, until the block ends.

    Args:
        runs: the folder of runs; where it cannot be written to, nothing is left.
        address: of the server, http://...
        uri: the store that it serves; no password of it is written.
    """
    path = runs / FILE
    content = {**_this_process(), "address": address, "store": shown(uri)}
    with contextlib.suppress(OSError):
        write_json(path, content)
    try:
        yield
    finally:
        # A UI that came later has left its own.
        if _read(path) == content:
            path.unlink(missing_ok=True)


def running_ui(runs: Path, uri: str) -> str:
    """The address of the UI that is up over the store at `uri`; empty where none is."""
    left = _read(runs / FILE)
    address = str(left.get("address", ""))
    if left.get("store") != shown(uri) or not address.startswith("http://") or not _lives(left):
        return ""
    # A proxy would look for this computer's own addresses elsewhere.
    opener = build_opener(ProxyHandler({}))
    with (
        contextlib.suppress(URLError, OSError, ValueError),
        opener.open(f"{address}/health", timeout=ANSWER_SECONDS),
    ):
        return address
    return ""


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }


def _lives(left: dict[str, Any]) -> bool:
    """Whether the process that left an address still lives, here, and is not another of its pid."""
    if left.get("host") != socket.gethostname():
        return False
    try:
        started = psutil.Process(int(left["pid"])).create_time()
        return abs(started - float(left["started"])) < 1
    except (psutil.Error, LookupError, TypeError, ValueError):
        return False


def _read(path: Path) -> dict[str, Any]:
    """What is left; empty where nothing that can be read is."""
    with contextlib.suppress(OSError, ValueError):
        content = read_json(path)
        return content if isinstance(content, dict) else {}
    return {}
