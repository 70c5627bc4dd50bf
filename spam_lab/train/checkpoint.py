"""Checkpoints: what a killed run goes on from. Each is a tensor file and a JSON seal beside it.

The tensor file is written whole (`spam_lab.files`), then its seal with the sha256 of its bytes: a
checkpoint without a matching seal does not count. Loading takes the newest that counts and reads it
with `weights_only=True`, so a file that a user hands in cannot run code. Older ones are removed
only after a newer one is sealed. What a finished run keeps for others to use is its model alone, as
safetensors.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as as_safetensors

from spam_lab.files import read_json, remove_partial, replacing, write_json

LOG = logging.getLogger(__name__)
PATIENCE_SECONDS = 60.0
"""How long a file that another machine sees may take to be seen here: network file systems cache
listings for seconds."""


MODEL = "model.safetensors"
"""The model of a finished run: its state dict, tied weights under each of their names."""


def save(folder: Path, step: int, content: dict[str, Any], kept: int) -> None:
    """Write the checkpoint of `step`, then remove all but the newest `kept`.

    Raises:
        OSError: the disk refused; older checkpoints are untouched.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    tensors = _tensors(folder, step)
    with replacing(tensors) as file:
        file.write(buffer.getbuffer())
    write_json(_seal(tensors), {"sha256": hashlib.sha256(buffer.getbuffer()).hexdigest()})
    prune(folder, kept)


def load_newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that is whole, as (step, content); None where there is none.

    A damaged one is named in the log, and the one before it is taken.
    """
    remove_partial(folder)
    for step in reversed(steps(folder)):
        tensors = _tensors(folder, step)
        try:
            return step, _read(tensors)
        except _DAMAGE as error:
            LOG.warning("checkpoint %s is damaged (%s); taking the one before it", tensors, error)
    return None


def load(folder: Path, step: int, patience: float = PATIENCE_SECONDS) -> dict[str, Any]:
    """The checkpoint of `step`, which another rank has read.

    Raises:
        RuntimeError: if it cannot be read here within `patience` seconds.
    """
    tensors, end = _tensors(folder, step), time.monotonic() + patience
    while True:
        try:
            return _read(tensors)
        except _DAMAGE as error:
            if time.monotonic() >= end:
                allowed = "paths.runs must be one folder that all ranks share"
                raise RuntimeError(f"cannot read {tensors}: {allowed} ({error})") from error
        time.sleep(0.5)


_DAMAGE = (OSError, ValueError, KeyError, RuntimeError)


def _read(tensors: Path) -> dict[str, Any]:
    content = tensors.read_bytes()
    if hashlib.sha256(content).hexdigest() != read_json(_seal(tensors))["sha256"]:
        raise ValueError("its bytes do not match its seal")
    loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return loaded


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, sealed or not, ascending."""
    return sorted(int(path.stem.removeprefix("step_")) for path in folder.glob("step_*.pt"))


def prune(folder: Path, kept: int) -> None:
    """Remove all but the newest `kept` checkpoints, seal first."""
    found = steps(folder)
    for step in found[: max(0, len(found) - kept)]:
        tensors = _tensors(folder, step)
        _seal(tensors).unlink(missing_ok=True)
        tensors.unlink(missing_ok=True)


def keep(folder: Path, what: str) -> None:
    """Reduce what a finished run has: to its `model`, to nothing (`none`), or not (`whole`).

    Only for a run that will never go on: the optimizer's state, most of a checkpoint, is dropped.
    Where no checkpoint is whole, nothing is.

    Raises:
        OSError: the disk refused; the checkpoint is untouched.
    """
    if what == "whole" or (newest := load_newest(folder)) is None:
        return
    if what == "model":
        dense = torch.contiguous_format
        model = {name: t.clone(memory_format=dense) for name, t in newest[1]["model"].items()}
        with replacing(folder / MODEL) as file:
            file.write(as_safetensors(model))
    prune(folder, kept=0)


def _tensors(folder: Path, step: int) -> Path:
    return folder / f"step_{step:09d}.pt"


def _seal(tensors: Path) -> Path:
    return tensors.with_suffix(".json")
