"""`spam-lab doctor --optimizers`: every optimizer of conf/optimizer, measured on this machine.

It promises that one that cannot be looked at is a line of the table, not the end of it.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

MODEL = "llama_60m"
TIMED_SCALE, TIMED_STEPS = "small", 10
WIDTH = 80


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


def table(lines: list[OptimizerLine]) -> str:
    """The lines as text, 80 columns."""
    about = (
        f"Bytes are of weights and of optimizer state, a parameter of {MODEL} at paper scale in "
        f"bfloat16. Times are of a median step over torch's fused AdamW, on {MODEL} at scale "
        f"{TIMED_SCALE} in float32 on this CPU; what happens rarely (new masks, GaLore's "
        "decompositions) is not in a median. Learning rates are those at paper scale."
    )
    return "\n".join([textwrap.fill(about, WIDTH), "", *(_shown(line) for line in lines)])


def _shown(line: OptimizerLine) -> str:
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
