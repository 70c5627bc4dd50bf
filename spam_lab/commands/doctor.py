"""`spam-lab doctor`: whether this machine has what runs need, and what the optimizers are.

It promises one line a finding that says ok or what to do, to leave nothing behind, and that one
optimizer that cannot be looked at is a line of the table, not the end of it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
import textwrap
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from pathlib import Path

from spam_lab.commands import add_runs_argument
from spam_lab.commands.bench import processor
from spam_lab.files import dump_json

SUMMARY = "check this machine, or list the optimizers"
DETAILS = """
Without options: versions, processor and GPU, whether torch.compile works, whether runs can be
written; a line each, ok or what to do. With --optimizers: every optimizer of conf/optimizer with
its method, source, memory, time of a step and learning rates; some minutes, as each is measured.
"""

PACKAGES = ("spam_lab", "torch", "transformers", "mlflow", "hydra-core", "numpy")
MODEL = "llama_60m"
TIMED_SCALE, TIMED_STEPS = "small", 10
WIDTH = 80


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it is, and what to do where it is not well."""

    what: str
    state: str
    advice: str = ""
    needed: bool = True
    """Whether nothing works without it."""


@dataclass(frozen=True)
class OptimizerLine:
    """One YAML of conf/optimizer; `problem` says why the rest is not known."""

    name: str
    method: str = ""
    source: str = ""
    weight_bytes: float = 0.0
    state_bytes: float = 0.0
    times_adamw: float = 0.0
    learning_rates: dict[str, float] | None = None
    problem: str = ""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--optimizers", action="store_true", help="the optimizers instead")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    add_runs_argument(parser)


def run(arguments: Namespace) -> int:
    """Print the findings or the optimizers; 1 where something needed is missing or fails."""
    if arguments.optimizers:
        lines = optimizers()
        if arguments.json:
            print(dump_json([asdict(line) for line in lines], indent=1))
        else:
            print(_shown_optimizers(lines))
        return int(any(line.problem for line in lines))
    findings = look(arguments.runs)
    if arguments.json:
        print(dump_json([asdict(finding) for finding in findings], indent=1))
    else:
        print("\n".join(_shown(finding) for finding in findings))
    return int(any(finding.advice and finding.needed for finding in findings))


def look(runs: Path) -> list[Finding]:
    """Everything that the doctor looks at, in the order in which it matters."""
    import torch

    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    cores = os.cpu_count() or 1
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        Finding("versions", f"python {platform.python_version()}, {versions}"),
        Finding(
            "processor", f"{processor()}, {cores} cores, torch {torch.get_num_threads()} threads"
        ),
        Finding(
            "GPU",
            ", ".join(gpus) or "none",
            "" if gpus else "nano and small scale run without; paper scale needs one",
            needed=False,
        ),
        _compiler(),
        _compilation(),
        _writable(runs),
    ]


def optimizers() -> list[OptimizerLine]:
    """Every optimizer of conf/optimizer, looked at and measured."""
    found = []
    for name in _names():
        try:
            found.append(_optimizer(name))
        except Exception as error:  # whatever is wrong with one, the others are still shown
            text = " ".join(f"{type(error).__name__}: {error}".split())
            found.append(OptimizerLine(name, problem=text))
    return found


def _names() -> list[str]:
    from spam_lab.config.compose import groups

    return groups()["optimizer"]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _compiler() -> Finding:
    """What torch.compile would call on a CPU."""
    candidates = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    path = next((found for name in candidates if name and (found := shutil.which(name))), None)
    if path is None:
        return Finding(
            "C++ compiler", "none", "install g++: SPAM.compile is faster with it", needed=False
        )
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return Finding("C++ compiler", (told.stdout.splitlines() or [path])[0])


def _compilation() -> Finding:
    import torch

    def grown(x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1

    try:
        compiled = torch.compile(grown)(torch.ones(64))
    except Exception as error:  # whatever a compiler raises is the finding
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return Finding("torch.compile", why, "all runs, only slower", needed=False)
    right = bool((compiled == 3).all())
    return Finding(
        "torch.compile",
        "works" if right else "computes wrong numbers",
        "" if right else "do not compile here",
        needed=False,
    )


def _writable(runs: Path) -> Finding:
    """Try it in the folder, or in the nearest one above it that is there."""
    folder = runs.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        why = error.strerror or str(error)
        return Finding("runs folder", f"{runs}: {why}", "give --runs DIR, or SPAM_LAB_RUNS=DIR")
    free = shutil.disk_usage(folder).free / 1e9
    return Finding("runs folder", f"{runs} can be written, {free:.0f} GB free")


def _optimizer(name: str) -> OptimizerLine:
    from spam_lab.config.compose import compose_run
    from spam_lab.optim.registry import find
    from spam_lab.orchestrate.calibrate import parameter_count
    from spam_lab.train.memory import run_memory

    overrides = [f"optimizer={name}", f"model={MODEL}"]
    config = compose_run([*overrides, "scale=paper", "precision=bf16"])
    memory, count = run_memory(config), parameter_count(config.model)
    method = find(config.optimizer)
    return OptimizerLine(
        name,
        method.name,
        method.source,
        memory.weights / count,
        memory.optimizer / count,
        _times_adamw(overrides),
        dict(config.optimizer.learning_rates),
    )


def _times_adamw(overrides: list[str]) -> float:
    """A median step over one of torch's fused AdamW, measured together."""
    import torch

    from spam_lab.config.compose import compose_run
    from spam_lab.optim.benchmark import Subject, measure
    from spam_lab.train.memory import run_parameters, run_shapes

    config = compose_run([*overrides, f"scale={TIMED_SCALE}"])
    cpu = torch.device("cpu")
    base = compose_run(["optimizer=adam", *overrides[1:], f"scale={TIMED_SCALE}"])
    subjects = [
        Subject("AdamW", None, run_shapes(base)[0]),
        Subject(
            overrides[0],
            config.optimizer,
            run_shapes(config)[0],
            prepared=run_parameters(config, cpu),
        ),
    ]
    return measure(subjects, torch.float32, cpu, TIMED_STEPS, limits=False).rows[1].ratio


def _shown(finding: Finding) -> str:
    mark = "ok" if not finding.advice else ("MEND" if finding.needed else "note")
    text = f"{finding.state}: {finding.advice}" if finding.advice else finding.state
    return textwrap.fill(f"{mark:5}{finding.what:15}{text}", WIDTH, subsequent_indent=" " * 20)


def _shown_optimizers(lines: list[OptimizerLine]) -> str:
    about = (
        f"Bytes are of weights and of optimizer state, a parameter of {MODEL} at paper scale in "
        f"bfloat16. Times are of a median step over torch's fused AdamW, on {MODEL} at scale "
        f"{TIMED_SCALE} in float32 on this CPU; what happens rarely (new masks, GaLore's "
        "decompositions) is not in a median. Learning rates are those at paper scale."
    )
    return "\n".join([textwrap.fill(about, WIDTH), "", *(_shown_optimizer(line) for line in lines)])


def _shown_optimizer(line: OptimizerLine) -> str:
    def wrapped(text: str) -> str:
        return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ")

    if line.problem:
        return f"{line.name}\n{wrapped(f'MEND {line.problem}')}"
    method = "" if line.method == line.name else f" ({line.method})"
    rates = ", ".join(
        f"{name.removeprefix('llama_')} {rate:g}"
        for name, rate in (line.learning_rates or {}).items()
    )
    head = f"{line.name}{method}"
    numbers = f"{line.weight_bytes:.2f} + {line.state_bytes:.2f} B, {line.times_adamw:6.2f} x AdamW"
    return (
        f"{head:{WIDTH - len(numbers)}}{numbers}\n{wrapped(line.source)}\n{wrapped('lr ' + rates)}"
    )
