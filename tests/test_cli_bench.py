"""`spam-lab bench optimizers` at the smallest scale: its table, its JSON, its refusals."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import pytest
import torch

from spam_lab.cli import main
from spam_lab.commands import bench
from spam_lab.files import read_json

SMALL = ["bench", "optimizers", "--scale", "nano", "--eager", "--threads", "1", "--repeats", "3"]


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 4R3W loop without seconds of compiling; its time is not looked at."""
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)


def test_the_table_and_the_file_agree(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    threads = torch.get_num_threads()
    code = main([*SMALL, "--methods", "adafactor", "--json", str(path), "--device", "cpu"])
    assert torch.get_num_threads() == threads
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert code == 0 and "MISSED" not in output.out, "only compiled steps have a bar"
    assert "preparing SPAM d=0.0025" in output.err
    content = read_json(path)
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(content["made"])
    assert age < datetime.timedelta(minutes=5)
    assert content["machine"]["processor"] and content["machine"]["torch"] == torch.__version__
    assert [group["dtype"] for group in content["groups"]] == ["float32", "bfloat16"]
    for group in content["groups"]:
        rows = {row["label"]: row for row in group["rows"]}
        spam = ["SPAM d=1", "SPAM d=0.25", "SPAM d=0.0025"]
        assert list(rows) == ["AdamW fused (torch)", *spam, "adafactor"]
        assert [rows[name]["bar"] for name in spam] == [None, None, None]
        state = [rows[name]["state_bytes"] for name in ("AdamW fused (torch)", *spam)]
        assert sorted(state, reverse=True) == state
        assert rows["SPAM d=1"]["samples"] == 3
        for row in rows.values():
            shown = [line for line in lines if line.startswith(f"{row['label']:22}")]
            assert any(f"{row['ratio']:7.2f}" in line for line in shown)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--methods", "adan"], "no optimizer adan: one of ada"),
        (["--model", "llama_7b"], "model=llama_7b is not known"),
        (["--repeats", "0"], "at least 1"),
    ],
)
def test_refusals_come_before_any_work(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *arguments]) == 1
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1


def test_a_gpu_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert main([*SMALL, "--device", "cuda"]) == 1
    assert "torch sees no GPU here: use --device cpu" in capsys.readouterr().err


def test_compiled_steps_have_the_bars() -> None:
    arguments = argparse.Namespace(scale="nano", model="llama_60m", eager=False, methods=[])
    for dtype, bars in (("float32", [1.05, 1.2, 0.75]), ("bfloat16", [0.85, None, None])):
        subjects = bench._of_dtype(arguments, dtype, torch.device("cpu"))
        assert [subject.bar for subject in subjects if subject.compiled] == bars
        assert {subject.bar for subject in subjects if not subject.compiled} == {None}
