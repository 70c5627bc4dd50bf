"""What is kept between builds: not worked out again, and never what other code or another config
made, nor what somebody changed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import spam_lab
from analysis import kept as module
from analysis import measured_memory
from analysis.kept import code_digest, kept
from analysis.measured_memory import Bytes, measured
from spam_lab.config.compose import compose_run
from tests.conftest import ROOT

COUNT = """
import sys
from pathlib import Path
from analysis.kept import kept
from analysis.measured_memory import at_paper_size
with kept(Path(sys.argv[1]), "memory") as known:
    print(at_paper_size({"model": "llama_60m", "optimizer": "adam"}, known))
print("torch" in sys.modules)
"""


def count(root: Path) -> list[str]:
    command = [sys.executable, "-c", COUNT, str(root)]
    return subprocess.check_output(command, cwd=ROOT, text=True).splitlines()


def keep(root: Path, **values: Any) -> dict[str, Any]:
    """Adds values; returns those that were there."""
    with kept(root, "memory") as known:
        before = dict(known)
        known.update(values)
    return before


def test_a_second_build_counts_nothing_and_loads_no_torch(tmp_path: Path) -> None:
    (first, loaded), (second, loaded_again) = count(tmp_path), count(tmp_path)
    assert first == second and "weights=116147200" in first
    assert (loaded, loaded_again) == ("True", "False")


def test_another_config_is_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(config: Any) -> Bytes:
        return Bytes(config.model.hidden_size, 0, 0, 0, 0)

    monkeypatch.setattr(measured_memory, "_count", counted)
    known: dict[str, Any] = {}
    config = compose_run([])
    wider = dataclasses.replace(
        config, model=dataclasses.replace(config.model, hidden_size=2 * config.model.hidden_size)
    )
    other_seed = dataclasses.replace(config, seed=7)
    assert [measured(c, known).weights for c in (config, wider, other_seed)] == [64, 128, 64]
    assert len(known) == 2


def test_what_is_kept_comes_back_and_may_be_deleted(tmp_path: Path) -> None:
    values = {"a": 0.1 + 0.2, "b": [1, 2], "c": {"d": "é"}}
    assert keep(tmp_path, **values) == {}
    assert keep(tmp_path) == values
    shutil.rmtree(tmp_path / ".cache")
    assert keep(tmp_path) == {}
    assert not (tmp_path / ".cache").exists(), "there was nothing to keep"


@pytest.mark.parametrize("library", ["module", "version"])
def test_other_code_finds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    keep(tmp_path, a=1)
    before = code_digest()
    if library == "module":
        copy = tmp_path / "spam_lab"
        shutil.copytree(Path(spam_lab.__file__).parent, copy)
        monkeypatch.setattr(spam_lab, "__file__", str(copy / "__init__.py"))
        assert code_digest.__wrapped__() == before, "where the code is does not matter"
        path = copy / "optim" / "spam.py"
        path.write_text(f"{path.read_text()}\n# a change\n")
    else:
        monkeypatch.setattr("importlib.metadata.version", lambda _: "0")
    monkeypatch.setattr(module, "code_digest", code_digest.__wrapped__)
    assert module.code_digest() != before
    assert keep(tmp_path, b=2) == {}
    assert keep(tmp_path) == {"b": 2}


@pytest.mark.parametrize("damage", ["value", "no json", "no object", "no values"])
def test_what_is_not_as_it_was_written_is_not_taken(tmp_path: Path, damage: str) -> None:
    keep(tmp_path, a=1)
    path = tmp_path / ".cache" / "memory.json"
    content = json.loads(path.read_text())
    content["values"]["a"] = 2
    texts = {"value": json.dumps(content), "no json": "{", "no object": "[1]", "no values": "{}"}
    path.write_text(texts[damage])
    assert keep(tmp_path, a=3) == {}
    assert keep(tmp_path) == {"a": 3}


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("")
    assert keep(root, a=1) == {}
    assert keep(root) == {}


def test_a_block_that_fails_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), kept(tmp_path, "memory") as known:
        known["a"] = 1
        raise KeyError
    assert keep(tmp_path) == {}
