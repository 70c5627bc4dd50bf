"""Tables 6, 7 and 8: rendered from the configuration, misprints marked, by the real command."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.catalogue import configured_names, exhibit_names
from analysis.exhibit import Exhibit
from analysis.settings_table import same
from analysis.table6 import build_from_config as table6
from analysis.table7 import build_from_config as table7
from analysis.table8 import build_from_config as table8
from spam_lab.config.compose import compose_run


def marked(exhibit: Exhibit, mark: str) -> list[tuple[str, str]]:
    table = exhibit.table
    return [(r["column"], r["setting"]) for _, r in table[table["mark"] == mark].iterrows()]


def value(table: pd.DataFrame, column: str, setting: str, field: str) -> str:
    row = table[(table["column"] == column) & (table["setting"] == setting)]
    return str(row[field].item())


def test_table6_marks_the_papers_misprints_and_nothing_else() -> None:
    exhibit = table6("nano")
    assert marked(exhibit, "differs") == [
        ("LLaMA-350M", "tokens"),
        ("LLaMA-1B", "heads"),
        ("LLaMA-1B", "layers"),
        ("LLaMA-1B", "tokens"),
    ]
    config = compose_run(["scale=nano", "model=llama_130m"])
    table = exhibit.table
    shown = value(table, "LLaMA-130M", "hidden size", "as_run")
    assert shown == str(config.model.hidden_size) != "768"
    assert value(table, "LLaMA-130M", "steps", "as_run") == str(config.schedule.steps)
    assert value(table, "LLaMA-1B", "tokens", "configured") == "11.7B"


def test_table7_is_what_the_sweeps_run() -> None:
    exhibit = table7("nano")
    assert marked(exhibit, "differs") == []
    assert {setting for _, setting in marked(exhibit, "not printed")} == {"sparse, density"}
    assert value(exhibit.table, "LLaMA-1B", "sparse, ΔT", "configured") == "1000"
    assert value(exhibit.table, "LLaMA-60M", "dense, N", "as_run") == "15"


def test_table8_is_what_the_sweep_runs() -> None:
    exhibit = table8("nano")
    assert marked(exhibit, "differs") == []
    assert {setting for _, setting in marked(exhibit, "not printed")} == {"density"}
    sparse = "LLaMA2-7B, memory-efficient"
    assert value(exhibit.table, sparse, "ΔT", "configured") == "250"
    assert value(exhibit.table, sparse, "density", "configured") == "0.0025"
    assert value(exhibit.table, "LLaMA2-7B, standard", "N", "as_run") == "8"


def test_they_are_found_and_written_like_any_exhibit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert configured_names() == ["table6", "table7", "table8"]
    assert set(configured_names()) < set(exhibit_names())
    assert main(["table6", "table8", "--reports", str(tmp_path), "--scale", "small"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    text = (tmp_path / "small" / "table6.md").read_text()
    assert "| LLaMA-1B | heads | 24 | 32 |" in text
    assert "python -m analysis table6 scale=small" in text
    assert "launch.py" not in text
    assert main(["table6", "data=c4", "--reports", str(tmp_path)]) == 1
    assert "no override but a scale" in capsys.readouterr().err


def test_numbers_are_compared_as_numbers() -> None:
    assert same("1e-3", "0.001")
    assert not same("7.8B", "7.9B")
