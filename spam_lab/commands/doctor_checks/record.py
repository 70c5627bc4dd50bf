"""What the doctor says of MLflow's record: whether its store answers, and is of a version that the
MLflow installed here can use. A store that is not there yet is not made.
"""

from __future__ import annotations

import base64
import importlib.metadata
import os
from pathlib import Path
from urllib.request import Request, urlopen

from spam_lab.commands.doctor_checks import Finding
from spam_lab.record.mlflow_store import (
    ACCOUNT,
    TrackingError,
    is_server,
    open_store,
    shown,
    sqlite_path,
    tracking_uri,
)

_SECONDS = 10.0


def look(runs: Path) -> Finding:
    """The finding about the record of a folder of runs. Runs train without one."""
    uri = tracking_uri(runs)
    own = importlib.metadata.version("mlflow")
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        return Finding("record", f"none yet at {path}: spam-lab sync makes it")
    try:
        with open_store(uri) as store:
            found = len(store.search_experiments(max_results=1000))
    except TrackingError as error:
        return Finding("record", "cannot be used", str(error), needed=False)
    experiments = f"{found} experiment{'' if found == 1 else 's'}"
    if not is_server(uri):
        return Finding("record", f"{shown(uri)}, {experiments}, of MLflow {own}")
    theirs = _server_version(uri)
    state = f"{shown(uri)}, {experiments}, MLflow {theirs or 'of unknown version'}, here {own}"
    if theirs and theirs.split(".")[:2] != own.split(".")[:2]:
        advice = f"have the server run MLflow {own}, or install {theirs} here, where sync fails"
        return Finding("record", state, advice, needed=False)
    return Finding("record", state)


def _server_version(uri: str) -> str:
    request = Request(f"{uri.rstrip('/')}/version")
    name, password = (os.environ.get(variable, "") for variable in ACCOUNT)
    if name and password:
        pair = base64.b64encode(f"{name}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {pair}")
    try:
        with urlopen(request, timeout=_SECONDS) as answer:
            told: str = answer.read(100).decode().strip()
    except (OSError, ValueError):
        return ""
    return told if told[:1].isdigit() else ""
