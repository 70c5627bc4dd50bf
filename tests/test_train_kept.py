"""What a finished run keeps of its checkpoint: real workers train, safetensors reads it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spam_lab.config.compose import compose_run
from spam_lab.models.build import build_model
from spam_lab.orchestrate.run import execute
from spam_lab.orchestrate.stop import StopRequest
from spam_lab.record.notes import run_note
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory
from spam_lab.train import checkpoint
from tests.test_train_resume import assert_same, finish, host_of, prepare


def trained(root: Path, cache: Path, *more: str) -> RunDirectory:
    """A run of six steps, trained to its end by a worker."""
    short = [
        "schedule.steps=6",
        "schedule.warmup_steps=1",
        "evaluation.every=6",
        "evaluation.tokens=512",
        "train.checkpoint_every=3",
        f"paths.cache={cache}",
    ]
    directory, command = prepare([*short, *more], root)
    finish(command)
    assert directory.status().state is State.DONE
    return directory


def files(directory: RunDirectory) -> list[str]:
    return sorted(path.name for path in directory.checkpoints_path.iterdir())


@pytest.mark.parametrize("model", ["llama_60m", "opt_125m"])
def test_the_model_alone_is_kept_and_is_that_of_the_checkpoint(
    tmp_path: Path, cache: Path, model: str
) -> None:
    """OPT's input and output embeddings are one tensor, stored under both names."""
    whole = trained(tmp_path / "whole", cache, f"model={model}", "train.kept_when_done=whole")
    small = trained(tmp_path / "model", cache, f"model={model}")
    assert files(whole) == ["step_000000006.json", "step_000000006.pt"]
    assert files(small) == [checkpoint.MODEL]
    newest = checkpoint.load_newest(whole.checkpoints_path)
    assert newest is not None and "optimizer" in newest[1]
    weights = load_file(small.checkpoints_path / checkpoint.MODEL)
    assert_same(weights, dict(newest[1]["model"]))
    built = build_model(compose_run([f"model={model}"]).model, sequence_length=64, seed=1)
    built.load_state_dict(weights)
    assert f"`{small.checkpoints_path / checkpoint.MODEL}`" in run_note(small, small.status(), [])


def test_nothing_is_kept_if_asked(tmp_path: Path, cache: Path) -> None:
    directory = trained(tmp_path, cache, "train.kept_when_done=none")
    assert files(directory) == []
    assert "Model:" not in run_note(directory, directory.status(), [])


def test_damaged_checkpoints_are_left_alone(tmp_path: Path) -> None:
    """Where no checkpoint is whole, none is dropped: it may be all that can be mended."""
    content = {"model": {"weight": torch.arange(3.0)}, "optimizer": {"step": 1}}
    checkpoint.save(tmp_path, 1, content, kept=2)
    checkpoint.save(tmp_path, 2, content, kept=2)
    (tmp_path / "step_000000002.pt").write_bytes(b"damaged")
    (tmp_path / "step_000000001.pt").write_bytes(b"damaged")
    for what in ("model", "none"):
        checkpoint.keep(tmp_path, what)
        assert checkpoint.steps(tmp_path) == [1, 2]


def test_no_error_in_it_costs_the_result(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(folder: Path, what: str) -> None:
        raise MemoryError("no room for a second copy")

    monkeypatch.setattr(checkpoint, "keep", failing)
    short = ["schedule.steps=2", "schedule.warmup_steps=1", "evaluation.every=2"]
    short += ["evaluation.tokens=512", f"paths.cache={cache}"]
    directory, _ = prepare(short, tmp_path)
    where = host_of(compose_run([*short, f"paths.runs={tmp_path}"]))
    execute(directory, where, StopRequest())
    assert directory.status().state is State.DONE
    assert checkpoint.steps(directory.checkpoints_path) == [2]
    assert "no room for a second copy" in directory.log_path.read_text()


def test_a_disk_that_refuses_costs_neither_the_result_nor_the_checkpoint(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder sits where the model's file would go."""
    directory, command = prepare(
        [
            "schedule.steps=2",
            "schedule.warmup_steps=1",
            "evaluation.every=2",
            "evaluation.tokens=512",
            f"paths.cache={cache}",
        ],
        tmp_path,
    )
    (directory.checkpoints_path / checkpoint.MODEL / "taken").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        finish(command)
    assert directory.status().state is State.DONE
    assert checkpoint.steps(directory.checkpoints_path) == [2]
    assert "stays whole" in directory.log_path.read_text()
