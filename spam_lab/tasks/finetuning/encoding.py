"""Texts as tokens: training rows with what counts of them, and choices with what is scored.

It promises the split between context and choice of lm-evaluation-harness: both are encoded as one
text, the choice has the tokens beyond those of the context alone, and spaces that end a context
belong to the choice. Every text begins with the tokens that the tokenizer itself puts before one
(LLaMA's <s>; SmolLM2 has none).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spam_lab.data.rows import IGNORED, Row
from spam_lab.data.tokenizer import Tokenizer
from spam_lab.tasks.finetuning.prompts import Choice, Example


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer, the tokens it puts before a text, and the one it puts at an end."""

    tokenizer: Tokenizer
    before: tuple[int, ...]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, with what comes before it."""
        return [[*self.before, *ids] for ids in self.tokenizer.encode_batch(texts)]


@dataclass(frozen=True)
class Scored:
    """A choice as tokens: all of `ids` but the last are read, the last `count` are scored."""

    ids: tuple[int, ...]
    count: int
    length: int


def scored(encoder: TextEncoder, choices: Sequence[Choice], limit: int) -> list[Scored]:
    """Choices as tokens; at most `limit` are read, those at the end.

    Raises:
        ValueError: a choice has no token of its own, or more than `limit`.
    """
    contexts = [choice.context.rstrip() for choice in choices]
    wholes = [choice.context + choice.continuation for choice in choices]
    found = []
    for choice, context, whole in zip(
        choices, encoder.encode(contexts), encoder.encode(wholes), strict=True
    ):
        count = len(whole) - len(context)
        if not 0 < count <= limit or not context:
            raise ValueError(
                f"{choice.continuation!r} after {choice.context[-40:]!r} has {count} tokens of its "
                f"own, and {limit} are read"
            )
        found.append(Scored(tuple(whole[-(limit + 1) :]), count, choice.length))
    return found


def training_rows(
    encoder: TextEncoder, examples: Sequence[Example], *, answers_alone: bool, length: int
) -> list[Row]:
    """Examples as rows of at most `length` tokens: text, end of text, and what of it counts.

    Of an example that is cut so short that nothing of its answer is left, nothing may count.
    """
    prompts = [example.prompt.rstrip() for example in examples]
    wholes = [example.prompt + example.answer for example in examples]
    end = encoder.tokenizer.eos_id
    rows = []
    for prompt, whole in zip(encoder.encode(prompts), encoder.encode(wholes), strict=True):
        ids = np.array([*whole, end][:length], dtype=np.int64)
        labels = ids.copy()
        # The harness scores no end of text; LLM-Adapters trains on it.
        if answers_alone:
            labels[: len(prompt)] = IGNORED
            labels[len(whole) :] = IGNORED
        rows.append(Row(ids, labels))
    return rows
