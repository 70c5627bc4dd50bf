"""The measurement of optimizer steps: what is counted, and that ratios are within one group."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from spam_lab.optim import benchmark
from spam_lab.optim.allocations import peak_of
from spam_lab.optim.benchmark import Row, Subject, first_step, measure
from spam_lab.optim.methods.adam import AdamConfig

CPU = torch.device("cpu")
SHAPES = (("a.weight", "attention", (64, 32)), ("norm.weight", "norm", (32,)))
ENTRIES = 64 * 32 + 32


class Sleeper(torch.optim.SGD):
    """An optimizer that takes long, keeps nothing and notes how it was compiled."""

    compiled: Path | None = None

    def compile(self, cache: Path | None = None) -> None:
        self.compiled = cache

    def step(self, closure: Any = None) -> None:
        end = benchmark.time.perf_counter() + 0.004
        while benchmark.time.perf_counter() < end:
            pass


def test_the_peak_is_what_is_in_use_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    def call() -> None:
        a = torch.ones(1000)
        b = a + a
        c = b * b
        del a, b
        _ = c + c

    assert peak_of(call, CPU) == 3 * 4000
    assert peak_of(lambda: None, CPU) == 0
    assert capfd.readouterr() == ("", "")


def test_a_group_is_divided_by_its_own_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        benchmark,
        "_built",
        lambda subject, named: (
            Sleeper([p for _, _, p in named])
            if subject.label == "slow"
            else torch.optim.AdamW([p for _, _, p in named], fused=True)
        ),
    )
    slow = Subject("slow", AdamConfig(lr=1.0), SHAPES, bar=1.5)
    group = measure([slow], torch.bfloat16, CPU, 5, limits=False)
    adamw, row = group.rows
    assert (adamw.label, adamw.ratio, adamw.within_bar) == ("AdamW fused (torch)", 1.0, None)
    assert (group.tensors, group.weights, group.dtype) == (2, ENTRIES, "bfloat16")
    assert adamw.state_bytes == 2 * 2 * ENTRIES + 4 * 2
    assert adamw.traffic_bytes == 3 * 2 * ENTRIES + 2 * adamw.state_bytes
    assert row.seconds[0] <= row.seconds[1] <= row.seconds[2]
    assert row.seconds[1] >= 0.004
    assert row.ratio == row.seconds[1] / adamw.seconds[1] > 1.5
    assert row.within_bar is False and row.samples == 5 and row.state_bytes == 0
    assert 0 <= group.others <= 1


def test_disturbed_steps_are_left_out_where_enough_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other processes seem to work through every second step."""
    busy = iter(range(10**6))
    monkeypatch.setattr(benchmark, "_busy", lambda: float((next(busy) + 1) // 4))
    monkeypatch.setattr(benchmark.time, "process_time", lambda: 0.0)
    case = benchmark._Case(Row("x"), lambda: None)
    benchmark._time([case], 8, CPU, random.Random(0))
    assert (len(case.times), len(case.quiet)) == (8, 4)
    assert case.counted == case.quiet
    case.quiet = case.quiet[:2]
    assert case.counted == case.times
    assert benchmark._finished(case, 1.0).undisturbed == 2


def test_real_methods_are_built_by_the_registry() -> None:
    subject = Subject("Adam", AdamConfig(lr=1e-3), SHAPES)
    limits: list[str] = []
    group = measure([subject], torch.float32, CPU, 2, limits=False, tell=limits.append)
    assert group.rows[1].state_bytes == 2 * 4 * ENTRIES + 4 * 2
    assert limits[0].startswith("preparing AdamW")


def test_limits_stand_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy always; the 4R3W loop where a compiler is, or a word about why not."""
    subject = Subject("AdamW", None, SHAPES)
    told: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    group = measure([subject], torch.float32, CPU, 2, tell=told.append)
    copy, loop = group.limits
    assert (copy.traffic_bytes, loop.traffic_bytes) == (8 * ENTRIES, 28 * ENTRIES)

    def refused(function: Any, dynamic: bool) -> Any:
        def call(*tensors: torch.Tensor) -> None:
            raise RuntimeError("no compiler here\nand more")

        return call

    monkeypatch.setattr(torch, "compile", refused)
    group = measure([subject], torch.float32, CPU, 2, tell=told.append)
    assert [row.label for row in group.limits] == ["copy of the weights"]
    assert "no 4R3W line: RuntimeError: no compiler here" in told


def test_compiling_is_part_of_the_first_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[Sleeper] = []

    def make(subject: Subject, named: Any) -> Sleeper:
        built.append(Sleeper([p for _, _, p in named]))
        return built[0]

    monkeypatch.setattr(benchmark, "_built", make)
    subject = Subject("slow", AdamConfig(lr=1.0), SHAPES, compiled=True)
    threads = torch.get_num_threads()
    assert first_step(subject, torch.float32, CPU, threads, tmp_path) >= 0.004
    assert built[0].compiled == tmp_path / "slow"


def test_bars() -> None:
    assert Row("x", bar=1.05, ratio=1.05).within_bar is True
    assert Row("x", bar=1.05, ratio=1.06).within_bar is False
    assert Row("x", ratio=9.0).within_bar is None
