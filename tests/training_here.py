"""A run trained in the test's own process, up to a step: how it ended, its losses, its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from spam_lab.config.compose import compose_run
from spam_lab.train.loop import Outcome, Training


class Losses:
    """A journal in memory."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        if "train/loss" in values:
            self.losses[step] = values["train/loss"]

    def flush(self, durable: bool = False) -> None:
        pass


def train(
    overrides: list[str], folder: Path, stop_at: int = 0
) -> tuple[Outcome, dict[int, float], dict[str, Tensor]]:
    torch.set_num_threads(1)
    journal = Losses()
    training = Training(compose_run(overrides), folder, journal)
    training._should_stop = lambda: training.step == stop_at
    outcome = training.run()
    return outcome, journal.losses, training.model.state_dict()
