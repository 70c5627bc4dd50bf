"""Every optimizer of conf/ trains a real model on real text: `optimizer=<name>` is all it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from spam_lab.config.compose import compose_run
from spam_lab.optim.registry import methods
from spam_lab.train.loop import Training
from tests.conftest import ROOT

NAMES = sorted(path.stem for path in (ROOT / "conf/optimizer").glob("*.yaml"))


class Losses:
    """A journal that keeps the training losses."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self.values += [values[key] for key in ("train/loss",) if key in values]

    def flush(self, durable: bool = False) -> None:
        pass


def test_every_method_has_a_yaml() -> None:
    assert set(methods()) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_on_real_text(name: str, tmp_path: Path, cache: Path) -> None:
    """At the learning rate of its own YAML, from the first loss to the mean of the last four."""
    torch.set_num_threads(1)
    config = compose_run(
        [
            f"optimizer={name}",
            "schedule.steps=24",
            "schedule.warmup_steps=2",
            "evaluation.tokens=300",
            f"paths.runs={tmp_path}",
            f"paths.cache={cache}",
        ]
    )
    losses = Losses()
    outcome = Training(config, tmp_path / "checkpoints", losses).run()
    assert outcome.state == "done"
    assert len(losses.values) == 24
    assert sum(losses.values[-4:]) / 4 < losses.values[0] - 0.1
