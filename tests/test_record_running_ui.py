"""The address that a served UI leaves: told while its process lives, serves this store and answers;
and what the report makes of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from analysis.report import _linkable
from analysis.whole import _ui_that_is_up
from spam_lab.files import read_json, write_json
from spam_lab.record.running_ui import FILE, announced, running_ui

STORE = "postgresql+psycopg://lab:secret@db/mlflow"


class Health(BaseHTTPRequestHandler):
    """A server that answers at /health alone, as MLflow does."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_address_is_told_while_it_is_served(tmp_path: Path, address: str) -> None:
    assert running_ui(tmp_path, STORE) == ""
    with announced(tmp_path, address, STORE):
        assert running_ui(tmp_path, STORE) == address
        assert running_ui(tmp_path, f"{STORE}2") == "", "it serves another store"
        assert "secret" not in (tmp_path / FILE).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_later_ui_keeps_its_own_address(tmp_path: Path, address: str) -> None:
    with announced(tmp_path, "http://127.0.0.1:1", STORE):
        later = read_json(tmp_path / FILE) | {"address": address}
        write_json(tmp_path / FILE, later)
    assert running_ui(tmp_path, STORE) == address


@pytest.mark.parametrize(
    "change",
    [
        {"started": psutil.Process().create_time() - 3600},
        {"pid": 2**22 + 1},
        {"pid": None},
        {"host": "another.node"},
        {"address": "file:///etc/hostname"},
        {"address": 7},
    ],
    ids=["another's pid", "no such pid", "no pid", "another host", "a file", "no address"],
)
def test_what_a_killed_ui_left_is_not_believed(
    tmp_path: Path, address: str, change: dict[str, object]
) -> None:
    with announced(tmp_path, address, STORE):
        write_json(tmp_path / FILE, read_json(tmp_path / FILE) | change)
        assert running_ui(tmp_path, STORE) == ""


def test_a_server_that_does_not_answer_is_not_told(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and never listening: a connection is refused
        with announced(tmp_path, f"http://127.0.0.1:{closed.getsockname()[1]}", STORE):
            assert running_ui(tmp_path, STORE) == ""


@pytest.mark.parametrize("left", ["{", "[]", "null"])
def test_a_damaged_file_is_as_none(tmp_path: Path, left: str) -> None:
    (tmp_path / FILE).write_text(left)
    assert running_ui(tmp_path, STORE) == ""


def test_a_folder_that_cannot_be_written_to_is_served_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with announced(tmp_path / "file", "http://127.0.0.1:1", STORE):
        assert running_ui(tmp_path / "file", STORE) == ""


def test_the_report_links_to_what_is_up(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", STORE)
    assert _ui_that_is_up(tmp_path) == ""
    with announced(tmp_path, address, STORE):
        assert _ui_that_is_up(tmp_path) == address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.lab/base/")
    assert _linkable(_ui_that_is_up(tmp_path)) == "https://mlflow.lab/base"
    assert _linkable(STORE) == ""
