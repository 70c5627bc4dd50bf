"""Where the record is kept and how it is opened: MLflow's tracking store, an sqlite file beside the
run directories unless MLFLOW_TRACKING_URI names another.

It promises that a new sqlite store appears whole or not at all, that a store which cannot be used
is one `TrackingError` with its address and what to do (never a password, never a traceback), and
that nothing is kept open after the block: a store deleted between two syncs is simply made anew.
MLflow takes seconds to import, so it is imported only when a store is opened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
_LOCK_SECONDS = 5.0
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own 7 retries keep a user waiting for minutes when the server is away.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}


ACCOUNT = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""Who asks a server with basic auth, in the environment; MLflow's client reads them itself."""


class TrackingError(RuntimeError):
    """The record cannot be used; the text names the store and says what to do."""


class RefusedError(TrackingError):
    """The record will not be usable by waiting: a wrong password, a missing driver."""


def tracking_uri(runs_root: Path) -> str:
    """The store of the record: MLFLOW_TRACKING_URI, or an sqlite file under the runs."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return given or f"{_SQLITE}{runs_root.resolve() / 'mlflow.db'}"


def artifact_root(runs_root: Path) -> str:
    """Where artifacts go when the store is a database of ours, as a URI."""
    return (runs_root.resolve() / "mlartifacts").as_uri()


def is_server(uri: str) -> bool:
    """Whether the store is an MLflow server, which then keeps the artifacts too."""
    return uri.startswith(("http://", "https://"))


def sqlite_path(uri: str) -> Path | None:
    """The file of an sqlite store, else None."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def shown(uri: str) -> str:
    """An address without the password in it."""
    hidden = re.sub(r"(://[^:/@]*:).*@", r"\1***@", uri)
    return re.sub(r"([?&]\w*password=)[^&#]*", r"\1***", hidden, flags=re.IGNORECASE)


def masked(text: str, uri: str) -> str:
    """What a program wrote about the store at `uri`, without any password that it may hold."""
    secrets = {os.environ.get(ACCOUNT[1], "")}
    for pattern in (r"://[^:/@]*:(.*)@", r"[?&]\w*password=([^&#]*)"):
        for secret in re.findall(pattern, uri, flags=re.IGNORECASE):
            secrets |= {secret, unquote(secret)}
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


@contextlib.contextmanager
def open_store(uri: str) -> Iterator[MlflowClient]:
    """A client of the store at `uri`, made first where it is an sqlite file that does not exist.

    Raises:
        TrackingError: the store cannot be opened, or fails inside the block.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _explained(uri):
        _require_usable(uri)
        from mlflow import MlflowClient

        # It prints the traceback of every database error that it also raises.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        path = sqlite_path(uri)
        if path and not path.exists():
            _create(path)
        try:
            yield MlflowClient(uri)
        finally:
            _forget(uri)


def _create(path: Path) -> None:
    """Make an empty store. Killed half way through its migrations, a store is beyond repair, so it
    takes its name when it is whole."""
    from mlflow import MlflowClient

    part = path.with_name(f"{path.name}.part")
    for leftover in (part, part.with_name(f"{part.name}-journal")):
        leftover.unlink(missing_ok=True)
    uri = f"{_SQLITE}{part}"
    try:
        MlflowClient(uri).search_experiments(max_results=1)
    finally:
        _forget(uri)
    part.replace(path)


def _forget(uri: str) -> None:
    """Drop the connections and stores that MLflow keeps for the life of the process."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking._tracking_service import utils

    engine = SqlAlchemyStore._engine_map.pop(uri, None)
    if engine is not None:
        engine.dispose()
    utils._tracking_store_registry._get_store_with_resolved_uri.cache_clear()


def _require_usable(uri: str) -> None:
    """Fail at once where MLflow would retry for a minute: a locked or damaged file, no database."""
    path = sqlite_path(uri)
    if path:
        if path.exists():
            with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_SECONDS)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
    elif uri.startswith(("postgresql", "mysql", "mssql")):
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri)
        try:
            engine.connect().close()
        finally:
            engine.dispose()


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn whatever a store can raise into one TrackingError."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _explanation(uri, error) from error
    except Exception as error:
        # These classes live in what is imported late; requests' errors are OSErrors.
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(error, MlflowException | SQLAlchemyError | ImportError):
            raise
        raise _explanation(uri, error) from error


def _explanation(uri: str, error: Exception) -> TrackingError:
    reason = masked(re.sub(r"\s+", " ", str(error)).strip(), uri)[:300]
    safe = "Run directories are untouched"
    kind = TrackingError
    code = getattr(error, "error_code", "")
    if is_server(uri) and code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        names, given = " and ".join(ACCOUNT), all(os.environ.get(name) for name in ACCOUNT)
        found = "what they say now is no account there" if given else "they are not both set"
        return RefusedError(
            f"the server at {shown(uri)} refuses you: {names} in the environment must be an "
            f"account of that server, and {found}. {safe}; set both, then sync again."
        )
    if is_server(uri) and code == "PERMISSION_DENIED":
        kind = RefusedError
        advice = "ask whoever runs that server to let you write, then sync again"
    elif isinstance(error, ImportError):
        kind = RefusedError
        advice = (
            "install that driver (for PostgreSQL: pip install 'psycopg[binary]', and an address "
            "that begins with postgresql+psycopg://), then sync again"
        )
    elif "locked" in reason:
        advice = "another program is writing to it: close it or wait, then sync again"
    elif "not a database" in reason or "malformed" in reason:
        advice = "move the file away and sync again: the record is rebuilt from the run directories"
    elif is_server(uri):
        advice = (
            "start that server, or unset MLFLOW_TRACKING_URI to keep the record beside the runs; "
            "then sync again"
        )
    else:
        advice = "once that is mended, sync again"
    return kind(f"the record at {shown(uri)} cannot be used: {reason}. {safe}; {advice}.")
