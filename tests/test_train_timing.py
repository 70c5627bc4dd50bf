"""Where a step's time goes: what the stopwatch counts, and that the loop writes it down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spam_lab.config.compose import compose_run
from spam_lab.train.loop import Training
from spam_lab.train.timing import WINDOW, Stopwatch
from tests.test_train_loop import Listed

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A clock that a test sets."""
    now = [0.0]
    monkeypatch.setattr("spam_lab.train.timing.time.perf_counter", lambda: now[0])
    yield now


def test_means_are_over_a_window_that_moves(clock: list[float]) -> None:
    stopwatch = Stopwatch(CPU)
    assert stopwatch.means() == {}
    for seconds in (1.0, 4.0):
        with stopwatch.measure("step"):
            clock[0] += seconds
            with stopwatch.measure("part"):
                clock[0] += 0.5
    assert stopwatch.means() == {"step": 3.0, "part": 0.5}
    assert stopwatch.means() == {"step": 3.0, "part": 0.5}, "reading changes nothing"
    for number in range(WINDOW + 7):
        if number == 40:
            stopwatch.means()
        with stopwatch.measure("step"):
            clock[0] += float(number)
    expected = sum(range(7, WINDOW + 7)) / WINDOW
    assert stopwatch.means() == {"step": pytest.approx(expected), "part": 0.5}


def test_a_block_that_raises_is_not_counted(clock: list[float]) -> None:
    stopwatch = Stopwatch(CPU)
    with pytest.raises(ValueError, match="lost"), stopwatch.measure("step"):
        raise ValueError("lost")
    assert stopwatch.means() == {}


def test_the_loop_writes_the_optimizers_share(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every write of metrics and at no other step; a slow optimizer shows."""
    torch.set_num_threads(1)
    journal = Listed()
    overrides = [word for word in tiny if not word.startswith("optimizer")]
    overrides += ["optimizer=adam", "schedule.steps=6", "evaluation.every=6"]
    overrides += ["train.checkpoint_every=6"]
    training = Training(compose_run(overrides), tmp_path, journal)
    step = training.optimizer.step

    def slow() -> None:
        time.sleep(0.05)
        step()

    monkeypatch.setattr(training.optimizer, "step", slow)
    training.run()
    for line in journal.values.values():
        assert ("train/step_seconds" in line) == ("train/tokens_per_second" in line)
    written = {step for step, line in journal.values.items() if "train/step_seconds" in line}
    assert written == {3, 6}
    for step_ in written:
        values = journal.values[step_]
        assert 0.05 < values["train/optimizer_seconds"] < values["train/step_seconds"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_gpu_is_timed_by_its_own_events() -> None:
    """The kernels are counted although the processor has long gone on."""
    stopwatch = Stopwatch(torch.device("cuda"))
    matrix = torch.rand(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    begin = time.perf_counter()
    with stopwatch.measure("work"):
        for _ in range(20):
            matrix = matrix @ matrix
            matrix /= matrix.norm()
    launched = time.perf_counter() - begin
    seconds = stopwatch.means()["work"]
    assert launched < seconds < time.perf_counter() - begin
