"""A tiny fine-tuning run of the real thing: a randomly initialised LLaMA, saved as transformers
saves it, the shipped tokenizer, and rows in the files' own format."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from spam_lab.data.embedded import tokenizer_file
from spam_lab.tasks.finetuning.packages import FOLDERS

SUBJECTS = ("river", "teacher", "engine", "garden", "letter", "winter", "market", "bridge")


def documents(count: int) -> dict[str, list[dict[str, Any]]]:
    """Documents of every task as its file has them, told apart by their words and lengths."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in FOLDERS}
    for i in range(count):
        a, b, c = (SUBJECTS[(i * step + step) % len(SUBJECTS)] for step in (1, 3, 5))
        long = " ".join([f"The {c} was old."] * (1 + i % 3))
        found["boolq"].append(
            {"query": f"{long}\nQuestion: is the {a} near a {b}?\nAnswer:", "label": i % 2}
        )
        found["piqa"].append(
            {"goal": f"reach the {a}", "sol1": f"ask a {b}", "sol2": f"wait {long}", "label": i % 2}
        )
        choices = [f"a {a}", f"the old {b} and the {c}", f"{c}", f"no {a} at all"]
        found["social_iqa"].append(
            {
                "context": f"Kim saw a {a}.",
                "question": "What next?",
                **{f"answer{letter}": text for letter, text in zip("ABC", choices, strict=False)},
                "label": i % 3,
            }
        )
        found["hellaswag"].append({"query": f"Work: The {a}", "choices": choices, "label": i % 4})
        found["winogrande"].append(
            {
                "sentence": f"The {a} met the {b} because _ was {i} years late.",
                "option1": f"the {a}",
                "option2": f"the {b}",
                "label": i % 2,
            }
        )
        asked = {"query": f"Question: What is a {a} in {1900 + i}?\nAnswer:", "choices": choices}
        for name in ("arc_easy", "arc_challenge", "openbookqa"):
            found[name].append({**asked, "label": i % 4})
        found["copa"].append(
            {
                "premise": f"The {a} broke.",
                "choice1": f"It was a {b}.",
                "choice2": f"The {c} fell on it.",
                "question": ("cause", "effect")[i % 2],
                "label": i % 2,
            }
        )
    return found


def write_rows(folder: Path, count: int = 12) -> Path:
    """`requests.jsonl.gz` of every task and split below `folder`."""
    for task, rows in documents(count).items():
        name, *splits = FOLDERS[task]
        for split in dict.fromkeys(splits):
            path = folder / name / split / "requests.jsonl.gz"
            path.parent.mkdir(parents=True)
            path.write_bytes(rows_file(rows))
    return folder


def rows_file(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A file's bytes: a line each choice, and each choice again without its question."""
    lines = []
    for number, row in enumerate(rows):
        document = {key: value for key, value in row.items() if key != "label"}
        for choice in range(2):
            for copy in (0, 1_000_000):
                line = {"doc": document, "doc_id": number + copy, "label": row["label"]}
                lines.append(json.dumps({**line, "request": {"continuation": f"{choice}"}}))
    return gzip.compress("\n".join(lines).encode())


def write_weights(folder: Path, **changes: Any) -> Path:
    """A LLaMA of two layers and its tokenizer, as a folder."""
    config = LlamaConfig(
        **{
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 1000,
            "max_position_embeddings": 256,
            "initializer_range": 0.3,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
            **changes,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    shutil.copy(tokenizer_file("bpe_1000"), folder / "tokenizer.json")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def tiny(weights: Path, rows: Path, cache: Path) -> list[str]:
    """The overrides of a run of six steps on them."""
    return [
        "task=finetuning",
        f"task.weights={weights}",
        f"task.rows={rows}",
        f"paths.cache={cache}",
        "task.batch_size=3",
        "task.test_rows=3",
        "task.training_rows=5",
        "task.sequence_length=96",
        "task.test_length=null",
        "schedule.steps=6",
        "schedule.warmup_steps=1",
        "evaluation.every=3",
        "train.checkpoint_every=100",
        "train.log_every=1",
        "train.device=cpu",
        "train.compile=never",
    ]
