"""`spam-lab bench optimizers`: what an optimizer's step costs on this machine, at real sizes.

It promises a table in which every ratio is between numbers of one group, measured here and now,
and says how busy the machine was; it trains nothing and reads no runs.
"""

from __future__ import annotations

import datetime
import multiprocessing
import platform
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spam_lab.commands import CommandError
from spam_lab.config.fields import ConfigError
from spam_lab.files import write_json

if TYPE_CHECKING:
    import torch

    from spam_lab.optim.benchmark import Group, Row, Subject

SUMMARY = "measure what optimizer steps cost on this machine"
DETAILS = """
Times step() of SPAM, dense and sparse, eager and compiled, on the real tensors of a model, beside
torch's fused AdamW. All are stepped in one process in random order; x AdamW is the median over
that of AdamW in the same group. bar: the most that compiled SPAM may take by this project's own
measure.
4R3W: what a dense Adam must read and write, without its arithmetic; nothing dense can be faster.
state and peak: memory kept between steps, and taken for a moment above it. GB/s: weights, gradients
and state over the time. Leave the machine alone meanwhile; at llama_60m it takes some minutes, most
of them for compiling (--eager leaves that out) and 5 GB of memory.
"""

# (label, overrides, bar by dtype)
_SUBJECTS: tuple[tuple[str, dict[str, Any], dict[str, float]], ...] = (
    ("SPAM d=1", {}, {"float32": 1.05, "bfloat16": 0.85}),
    ("SPAM d=0.25", {"optimizer.density": 0.25}, {"float32": 1.2}),
    ("SPAM d=0.0025", {"optimizer.density": 0.0025}, {"float32": 0.75}),
)
# Clipping acts from the first timed step on, and no reset falls into the timing.
_STEADY = {"optimizer.grace_steps": 0, "optimizer.delta_t": 1_000_000}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("what", choices=["optimizers"], help="what to measure")
    parser.add_argument("--model", default="llama_60m", help="whose tensors (default: %(default)s)")
    parser.add_argument("--scale", default="paper", help="at which scale (default: %(default)s)")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        default=["float32", "bfloat16"],
        choices=["float32", "bfloat16"],
        help="of weights, gradients and moments (default: both)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help="more optimizers, by their names in conf/optimizer",
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=15, help="timed steps of each (default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="default: a GPU where there is one"
    )
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table there")


def run(arguments: Namespace) -> int:
    """Measure and print; 1 where a bar is missed."""
    if arguments.repeats < 1 or arguments.threads < 1:
        raise CommandError("--repeats and --threads are at least 1")
    import torch

    from spam_lab.optim.benchmark import measure

    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CommandError("torch sees no GPU here: use --device cpu")
    subjects = _subjects(arguments, device)
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    measured: list[tuple[Group, dict[str, tuple[float, float]]]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="spam_lab_bench_") as folder:
            for dtype in arguments.dtypes:
                chosen, kind = subjects[dtype], getattr(torch, dtype)
                cache = Path(folder) / dtype
                seconds = _compile_seconds(chosen, kind, device, arguments.threads, cache)
                group = measure(
                    chosen, kind, device, arguments.repeats, cache=cache, tell=_progress
                )
                measured.append((group, seconds))
                print(_table(arguments, group, seconds), flush=True)
    finally:
        torch.set_num_threads(threads)
    if arguments.json:
        write_json(arguments.json, _record(arguments, device, measured))
    return int(any(row.within_bar is False for group, _ in measured for row in group.rows))


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    return {
        "host": platform.node(),
        "processor": processor(),
        "cores": multiprocessing.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """The CPU's name as the system gives it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _subjects(arguments: Namespace, device: torch.device) -> dict[str, list[Subject]]:
    """By dtype: what is measured. Everything is composed before anything is measured."""
    from spam_lab.config.compose import groups

    known = groups()["optimizer"]
    for name in arguments.methods:
        if name not in known:
            raise CommandError(f"no optimizer {name}: one of {', '.join(known)}")
    try:
        return {dtype: _of_dtype(arguments, dtype, device) for dtype in arguments.dtypes}
    except ConfigError as error:
        raise CommandError(str(error)) from None


def _of_dtype(arguments: Namespace, dtype: str, device: torch.device) -> list[Subject]:
    precision = {"float32": "fp32", "bfloat16": "bf16"}[dtype]
    base = [f"scale={arguments.scale}", f"model={arguments.model}", f"precision={precision}"]
    found = []
    for label, overrides, bars in _SUBJECTS:
        own = [f"{key}={value}" for key, value in {**_STEADY, **overrides}.items()]
        forms = _forms(label, [*base, "optimizer=spam", *own], device, arguments.eager)
        found += [replace(f, bar=bars.get(dtype) if f.compiled else None) for f in forms]
    for name in arguments.methods:
        found += _forms(name, [*base, f"optimizer={name}"], device, arguments.eager)
    return found


def _forms(label: str, overrides: list[str], device: torch.device, eager: bool) -> list[Subject]:
    """One optimizer, eager, and compiled where it can be."""
    from spam_lab.config.compose import compose_run
    from spam_lab.optim.benchmark import Subject
    from spam_lab.train.memory import run_parameters, run_shapes

    config = compose_run(overrides)
    shapes, compiles = run_shapes(config)
    prepared = run_parameters(config, device)
    found = [Subject(label, config.optimizer, shapes, prepared=prepared)]
    # A compiled one goes to another process, and a prepared model's tensors cannot.
    if compiles and prepared is None and not eager:
        found.append(replace(found[0], compiled=True))
    return found


def _compile_seconds(
    subjects: Sequence[Subject], dtype: torch.dtype, device: torch.device, threads: int, cache: Path
) -> dict[str, tuple[float, float]]:
    """By label: seconds to the end of a compiled first step, in a new process with an empty cache
    and in another one with what the first left there. The first step itself is in both."""
    from spam_lab.optim.benchmark import first_step

    seconds = {}
    for subject in subjects:
        if not subject.compiled:
            continue
        times = []
        for _ in range(2):
            _progress(f"compiling {subject.label} in a new process")
            # One process a time: what it holds in memory must not reach the next.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                task = pool.submit(first_step, subject, dtype, device, threads, cache)
                times.append(task.result())
        seconds[subject.label] = (times[0], times[1])
    return seconds


def _table(arguments: Namespace, group: Group, compiling: dict[str, tuple[float, float]]) -> str:
    """The group as text, 80 columns."""
    lines = [
        f"{arguments.model} at scale {arguments.scale}: {group.tensors} tensors, "
        f"{group.weights / 1e6:.2f} M weights, {group.dtype}",
        f"{group.device}, {arguments.threads} threads; {_disturbance(group)}",
        f"{'':22}{'ms':>7}{'quartiles':>12}{'xAdamW':>7}{'bar':>12}{'state MB':>9}{'peak':>6}"
        f"{'GB/s':>5}",
    ]
    lines += [_line(row) for row in (*group.limits, *group.rows)]
    lines += [
        f"compiling {label}: {first:.1f} s, again from the cache {again:.1f} s"
        for label, (first, again) in compiling.items()
    ]
    return "\n".join([*lines, ""])


def _disturbance(group: Group) -> str:
    """How busy other processes were, and how many steps they spared."""
    counts = [row.undisturbed for row in (*group.limits, *group.rows)]
    return (
        f"others used {group.others:.0%} of the CPUs; {min(counts)} to {max(counts)} of "
        f"{group.rows[0].samples} steps undisturbed"
    )


def _line(row: Row) -> str:
    name = f"{row.label}{' compiled' if row.compiled and row.state_bytes else ''}"
    low, median, high = (_short(1e3 * value) for value in row.seconds)
    bar = "" if row.bar is None else f"{row.bar:.2f} {'ok' if row.within_bar else 'MISSED'}"
    state, peak = (
        (_short(size / 1e6) if row.state_bytes else "")
        for size in (row.state_bytes, row.peak_bytes)
    )
    speed = row.traffic_bytes / row.seconds[1] / 1e9
    return (
        f"{name:22}{median:>7}{f'{low}-{high}':>12}{row.ratio:7.2f}{bar:>12}{state:>9}{peak:>6}"
        f"{speed:5.{0 if speed >= 100 else 1}f}"
    )


def _short(value: float) -> str:
    return f"{value:.{1 if value < 100 else 0}f}"


def _record(
    arguments: Namespace,
    device: torch.device,
    measured: Sequence[tuple[Group, dict[str, tuple[float, float]]]],
) -> dict[str, Any]:
    """The table for machines, with when and where it was made."""
    return {
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(device),
        "model": arguments.model,
        "scale": arguments.scale,
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "groups": [{**asdict(group), "compile_seconds": seconds} for group, seconds in measured],
    }


def _progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
