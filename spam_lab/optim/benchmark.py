"""How long optimizer steps take on given tensors, beside fused AdamW and the limits of memory.

This module owns the measurement: all subjects of one dtype are stepped in one process, one after
another in an order that is drawn anew every round, on the same weights and gradients, so that a
slow moment of the machine hits none of them alone. It promises that every number is measured here
and now, in the same group as the AdamW and the limits that it is compared with, and that a GPU is
timed by its own events with nothing else in flight.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spam_lab.config.schema import OptimizerConfig
from spam_lab.optim.allocations import peak_of
from spam_lab.optim.memory import Named, Shape, state_bytes
from spam_lab.optim.registry import build_optimizer

WARMUPS = 3
"""Steps before the clock: state is allocated, masks are drawn, kernels are compiled."""

DISTURBED, TICKS = 0.1, 0.02
"""A step is disturbed if other processes used more than this share of all processors, and more
than these seconds, which are two ticks of the clock that tells."""

ENOUGH = 3
"""Undisturbed steps from which on the disturbed ones are left out."""


@dataclass(frozen=True)
class Subject:
    """One optimizer to measure.

    Attributes:
        label: what it is called in the table.
        config: its hyperparameters; None is torch's fused AdamW, that all are divided by.
        shapes: the tensors that it trains.
        compiled: whether its `compile` is called first.
        bar: the largest multiple of fused AdamW that it may take, if there is a bar.
        prepared: makes the tensors, for a method that changes its model and ties them together
            (ReLoRA); None shares those of equal name and size with all others.
    """

    label: str
    config: OptimizerConfig | None
    shapes: tuple[Shape, ...]
    compiled: bool = False
    bar: float | None = None
    prepared: Callable[[], Named] | None = None


@dataclass(frozen=True)
class Row:
    """What was measured of one subject or limit, in seconds and bytes.

    Attributes:
        seconds: lower quartile, median and upper quartile of a step; of the undisturbed ones
            where there are at least `ENOUGH`, else of all.
        samples: steps timed; `undisturbed` of them while other processes rested.
        ratio: the median over the median of fused AdamW.
        state_bytes: all that the optimizer keeps between steps.
        peak_bytes: the most that a step allocates above what is there before it.
        traffic_bytes: weights and state read and written once, gradients read once.
        first_seconds: the first step, which allocates and draws masks (and compiles, if compiled).
    """

    label: str
    compiled: bool = False
    bar: float | None = None
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    samples: int = 0
    undisturbed: int = 0
    ratio: float = 0.0
    state_bytes: int = 0
    peak_bytes: int = 0
    traffic_bytes: int = 0
    first_seconds: float = 0.0

    @property
    def within_bar(self) -> bool | None:
        """Whether the median is below the bar; None without one."""
        return None if self.bar is None else self.ratio <= self.bar


@dataclass(frozen=True)
class Group:
    """All that was measured together: one dtype, one device.

    `limits` are the copy of the weights (4R3W is 3.5 times its traffic) and the 4R3W loop itself;
    `others` is the share of all processors that other processes used meanwhile, which makes every
    time here too long.
    """

    dtype: str
    device: str
    tensors: int
    weights: int
    rows: tuple[Row, ...]
    limits: tuple[Row, ...]
    others: float


@dataclass
class _Case:
    """Something to time: `step` is what takes the time."""

    row: Row
    step: Callable[[], Any]
    times: list[float] = field(default_factory=list)
    quiet: list[float] = field(default_factory=list)

    @property
    def counted(self) -> list[float]:
        """The times that count."""
        return self.quiet if len(self.quiet) >= ENOUGH else self.times


def measure(
    subjects: Sequence[Subject],
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
    *,
    seed: int = 0,
    limits: bool = True,
    cache: Path | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> Group:
    """Measure `subjects`, fused AdamW among them or added, in one group.

    Args:
        subjects: what to measure. Tensors of equal name and size are the same ones.
        dtype: of weights and gradients.
        device: where they are.
        repeats: timed steps a subject.
        seed: of weights, gradients and the order.
        limits: whether the copy and the 4R3W loop are measured too.
        cache: folder of compiled kernels, each subject's in one of its own; needed where one
            compiles.
        tell: called with a line before whatever takes long.
    """
    if all(subject.config is not None for subject in subjects):
        subjects = [Subject("AdamW fused (torch)", None, subjects[0].shapes), *subjects]
    tensors = _Tensors(dtype, device, seed)
    cases = [_prepared(subject, tensors, cache, tell) for subject in subjects]
    reference = [tensors.get(shape) for shape in subjects[0].shapes]
    anchors = [_copy(reference), *_read_modify_write(reference, tell)] if limits else []
    tell(f"timing {len(cases)} optimizers in {str(dtype).removeprefix('torch.')}")
    others = _time([*cases, *anchors], repeats, device, random.Random(seed))
    for case in cases:
        case.row = replace(case.row, peak_bytes=peak_of(case.step, device))
    adamw = next(i for i, subject in enumerate(subjects) if subject.config is None)
    unit = statistics.median(cases[adamw].counted)
    return Group(
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        tensors=len(reference),
        weights=sum(parameter.numel() for parameter in reference),
        rows=tuple(_finished(case, unit) for case in cases),
        limits=tuple(_finished(case, unit) for case in anchors),
        others=others,
    )


def bytes_of(tensors: Sequence[Tensor]) -> int:
    """Bytes of the entries of all `tensors`."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def first_step(
    subject: Subject, dtype: torch.dtype, device: torch.device, threads: int, cache: Path
) -> float:
    """Seconds until a compiled optimizer has taken its first step; for a fresh process."""
    torch.set_num_threads(threads)
    return _prepared(subject, _Tensors(dtype, device, 0), cache, lambda _: None).row.first_seconds


class _Tensors:
    """Weights N(0, 0.02) and gradients N(0, 0.01), one pair for every name and size."""

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int) -> None:
        self._dtype, self._device = dtype, device
        self._generator = torch.Generator().manual_seed(seed)
        self._known: dict[Shape, nn.Parameter] = {}

    def get(self, shape: Shape) -> nn.Parameter:
        """The parameter of that name and size, with its gradient."""
        if shape not in self._known:
            parameter = nn.Parameter(self._normal(shape[2], 0.02))
            parameter.grad = self._normal(shape[2], 0.01)
            self._known[shape] = parameter
        return self._known[shape]

    def of(self, subject: Subject) -> Named:
        """The subject's parameters, all with gradients."""
        if subject.prepared is None:
            return [
                (name, kind, self.get((name, kind, size))) for name, kind, size in subject.shapes
            ]
        named = subject.prepared()
        for _, _, parameter in named:
            parameter.grad = self._normal(tuple(parameter.shape), 0.01)
        return named

    def _normal(self, size: tuple[int, ...], std: float) -> Tensor:
        drawn = torch.randn(size, generator=self._generator).mul_(std)
        return drawn.to(self._device, self._dtype)


def _prepared(
    subject: Subject, tensors: _Tensors, cache: Path | None, tell: Callable[[str], None]
) -> _Case:
    """The subject with its first steps taken."""
    tell(f"preparing {subject.label}{', compiled' if subject.compiled else ''}")
    named = tensors.of(subject)
    parameters = [parameter for _, _, parameter in named]
    optimizer = _built(subject, named)
    # The clock starts before compile: some compile at once, some at the first step.
    start = time.perf_counter()
    if subject.compiled:
        assert cache is not None, "compiled kernels need a folder"
        optimizer.compile(cache / subject.label)  # type: ignore[attr-defined]
    optimizer.step()
    _finish(parameters[0].device)
    first = time.perf_counter() - start
    for _ in range(WARMUPS - 1):
        optimizer.step()
    kept, weights = sum(state_bytes(optimizer).values()), bytes_of(parameters)
    row = Row(
        label=subject.label,
        compiled=subject.compiled,
        bar=subject.bar,
        state_bytes=kept,
        traffic_bytes=3 * weights + 2 * kept,
        first_seconds=first,
    )
    return _Case(row, optimizer.step)


def _built(subject: Subject, named: Named) -> Optimizer:
    if subject.config is not None:
        return build_optimizer(subject.config, named, 0)
    parameters = [parameter for _, _, parameter in named]
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)


def _copy(parameters: list[nn.Parameter]) -> _Case:
    """Copy the weights: what the memory gives to a plain read and write."""
    targets = [torch.empty_like(parameter) for parameter in parameters]
    sources = [parameter.detach() for parameter in parameters]
    row = Row("copy of the weights", traffic_bytes=2 * bytes_of(sources))

    def step() -> None:
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)

    return _Case(row, step)


def _read_modify_write(parameters: list[nn.Parameter], tell: Callable[[str], None]) -> list[_Case]:
    """A dense Adam's accesses without its arithmetic: read w, g, m, v; write w, m, v in place.

    Needs torch.compile, since no eager operation writes three tensors; empty where it fails.
    """
    entries = sum(parameter.numel() for parameter in parameters)
    like = parameters[0].detach()
    flat = [torch.zeros(entries, dtype=like.dtype, device=like.device) for _ in range(4)]

    def touch(w: Tensor, g: Tensor, m: Tensor, v: Tensor) -> None:
        w.add_(g)
        m.add_(g)
        v.add_(g)

    tell("compiling the 4R3W loop")
    compiled = torch.compile(touch, dynamic=False)
    try:
        compiled(*flat)
    except Exception as error:  # whatever a compiler can raise: the table does without this line
        tell(f"no 4R3W line: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
        return []
    row = Row("4R3W in place", compiled=True, traffic_bytes=7 * entries * like.element_size())
    return [_Case(row, lambda: compiled(*flat))]


def _time(
    cases: Sequence[_Case], repeats: int, device: torch.device, order: random.Random
) -> float:
    """Fill every case's times; the share of all processors that other processes used."""
    cores = psutil.cpu_count() or 1
    others = wall = 0.0
    for _ in range(repeats):
        for case in order.sample(list(cases), len(cases)):
            busy, own, begin = _busy(), time.process_time(), time.perf_counter()
            seconds = _seconds(case.step, device)
            lasted = cores * (time.perf_counter() - begin)
            theirs = _busy() - busy - (time.process_time() - own)
            case.times.append(seconds)
            if theirs <= max(DISTURBED * lasted, TICKS):
                case.quiet.append(seconds)
            others, wall = others + theirs, wall + lasted
    return min(1.0, max(0.0, others / wall))


def _busy() -> float:
    """Seconds that the processors have worked since the machine started, for anybody."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _seconds(step: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    events[0].record()
    step()
    events[1].record()
    torch.cuda.synchronize(device)
    return float(events[0].elapsed_time(events[1])) / 1e3


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _finished(case: _Case, unit: float) -> Row:
    times = case.counted
    low, median, high = (
        statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    )
    return replace(
        case.row,
        seconds=(low, median, high),
        samples=len(case.times),
        undisturbed=len(case.quiet),
        ratio=median / unit,
    )
