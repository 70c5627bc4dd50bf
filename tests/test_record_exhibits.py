"""An exhibit's files beside its sweep in the record: replaced when drawn again, and never a reason
for the command to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.__main__ import _attach
from spam_lab.record.exhibits import attach
from tests.analysis_store import make_store


@pytest.fixture
def uri(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A record with the sweep table10, without runs."""
    shared = tmp_path_factory.getbasetemp()
    return make_store(shared, tmp_path / "store/mlflow.db", "table10", [], lambda request: None)


def test_a_file_is_replaced_when_it_is_drawn_again(uri: str, tmp_path: Path) -> None:
    picture = tmp_path / "table10.png"
    for content in (b"first", b"second"):
        picture.write_bytes(content)
        assert attach(uri, "nano", "table10", [picture])
    (found,) = (tmp_path / "store").glob("*/artifacts/exhibit/*")
    assert (found.name, found.read_bytes()) == ("table10.png", b"second")


def test_where_it_cannot_be_put_a_line_says_so(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "table10.png"
    picture.write_bytes(b"drawn")
    assert attach(uri, "nano", "table10", [picture])
    (folder,) = (tmp_path / "store").glob("*/artifacts")
    folder.rename(tmp_path / "elsewhere")
    folder.write_text("no folder any more")
    _attach([picture], uri, "nano", "table10")
    _attach([picture], uri, "nano", "figure9")
    _attach([picture], "http://127.0.0.1:9", "nano", "table10")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3, lines
    assert all(line.startswith("not in the record: ") for line in lines)
    assert "it has no sweep figure9" in lines[1]
    assert "http://127.0.0.1:9" in lines[2]
