"""The training loop on real text with real models: it learns, it tells the truth about loss and
divergence, and how it runs changes nothing of what it computes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from spam_lab.config.compose import compose_run
from spam_lab.config.schema import RunConfig, ScheduleConfig
from spam_lab.data.rows import Batch
from spam_lab.models.loss import token_losses
from spam_lab.tasks.registry import open_task
from spam_lab.train import checkpoint
from spam_lab.train.device import choose_device
from spam_lab.train.evaluate import evaluate
from spam_lab.train.loop import Outcome, Training
from spam_lab.train.schedule import lr_factor

CLOCKED = ("train/tokens_per_second", "train/step_seconds", "train/optimizer_seconds")
"""Metrics that measure time, and so differ between any two runs."""


class Listed:
    """A journal that keeps everything in memory."""

    def __init__(self) -> None:
        self.values: dict[int, dict[str, float]] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self.values.setdefault(step, {}).update(values)

    def flush(self, durable: bool = False) -> None:
        pass


@pytest.fixture
def small(tiny: list[str]) -> list[str]:
    return [*tiny, "schedule.steps=12", "schedule.warmup_steps=2"]


def train(overrides: list[str], folder: Path) -> tuple[Outcome, Listed, Training]:
    torch.set_num_threads(1)
    journal = Listed()
    training = Training(compose_run(overrides), folder, journal)
    return training.run(), journal, training


@pytest.mark.parametrize("precision", ["fp32", "bf16", "mixed"])
@pytest.mark.parametrize("optimizer", ["spam", "spam_sparse", "spam_reference", "adam"])
def test_every_method_learns_real_text(
    precision: str, optimizer: str, tmp_path: Path, cache: Path
) -> None:
    overrides = [
        f"optimizer={optimizer}",
        f"precision={precision}",
        "optimizer.lr=0.005",
        "schedule.steps=30",
        "schedule.warmup_steps=3",
        "evaluation.every=30",
        "evaluation.tokens=512",
        "data.batch_size=2",
        f"paths.cache={cache}",
    ]
    outcome, journal, training = train(overrides, tmp_path)
    assert outcome == Outcome("done", 30)
    first = journal.values[1]["train/loss"]
    assert abs(first - math.log(1000)) < 0.3, "an untrained model is at chance"
    assert journal.values[30]["validation/loss"] < first - 0.5
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "mixed": torch.float32}[precision]
    assert {p.dtype for p in training.model.parameters()} == {dtype}


def test_micro_batches_give_the_same_gradients(small: list[str], tmp_path: Path) -> None:
    _, whole, _ = train(small, tmp_path / "a")
    _, split, _ = train([*small, "train.micro_batch_size=1"], tmp_path / "b")
    assert compose_run(small).data.batch_size > 1
    for step in range(1, 13):
        assert whole.values[step]["train/loss"] == pytest.approx(
            split.values[step]["train/loss"], rel=2e-4
        )


def test_rows_of_unequal_length_count_by_token(small: list[str], tmp_path: Path) -> None:
    """Documents are padded: every predicted token weighs the same, in micro-batches too."""
    documents = [*small, "data.layout=document", "schedule.steps=2"]
    _, whole, _ = train(documents, tmp_path / "a")
    _, split, _ = train([*documents, "train.micro_batch_size=1"], tmp_path / "b")
    assert whole.values[1]["train/loss"] == pytest.approx(split.values[1]["train/loss"], rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_methods_are_paired_by_seed(small: list[str], tmp_path: Path, seed: int) -> None:
    """Adam and SPAM start from the same weights and the same first batch."""
    others = [o for o in small if not o.startswith("optimizer")]
    losses = [
        train([*others, f"optimizer={name}", f"seed={seed}"], tmp_path / name)[1].values[1][
            "train/loss"
        ]
        for name in ("adam", "spam")
    ]
    assert losses[0] == losses[1]


def test_a_diverged_run_is_a_result_and_its_nan_is_kept(small: list[str], tmp_path: Path) -> None:
    bad = [*small, "optimizer.lr=1e30", "optimizer.spike_rule=none"]
    outcome, journal, _ = train(bad, tmp_path)
    assert outcome.state == "diverged"
    assert not math.isfinite(journal.values[outcome.step]["train/loss"])
    assert max(journal.values) == outcome.step, "nothing is recorded after it"
    assert f"at step {outcome.step} of 12" in outcome.reason
    newest = checkpoint.load_newest(tmp_path)
    assert newest is None or newest[0] < outcome.step


def test_divergence_is_at_the_same_step_however_often_it_is_looked_for(
    small: list[str], tmp_path: Path
) -> None:
    bad = [*small, "optimizer.lr=1e30", "optimizer.spike_rule=none"]
    steps = {
        train([*bad, f"train.log_every={every}"], tmp_path / str(every))[0].step
        for every in (1, 4, 12)
    }
    assert len(steps) == 1


def test_the_telemetry_adds_up(small: list[str], tmp_path: Path) -> None:
    _, journal, training = train([*small, "optimizer.theta=5"], tmp_path)
    total = 0.0
    for step in sorted(journal.values):
        line = journal.values[step]
        total += sum(v for k, v in line.items() if k.startswith("spam/clipped/"))
        assert line["spam/clipped_total"] == total
        assert 0 <= line["spam/clipped_fraction"] <= 1
        assert 0 < line["spam/warmup_scale"] <= 1
    assert total > 0
    assert journal.values[12]["spam/resets"] == 1
    kinds = {k.rpartition("/")[2] for k in journal.values[12] if k.startswith("spam/clipped/")}
    assert kinds == {"embedding", "attention", "ffn", "norm", "head"}
    assert training.step == 12


def test_clipping_reaches_the_update(small: list[str], tmp_path: Path) -> None:
    """Value clip and norm clip change what Adam computes."""
    adam = [o for o in small if not o.startswith("optimizer")] + ["optimizer=adam"]
    last = [
        train([*adam, *more], tmp_path / str(i))[1].values[12]["train/loss"]
        for i, more in enumerate(([], ["optimizer.clip_value=1e-3"], ["optimizer.clip_norm=0.1"]))
    ]
    assert len(set(last)) == 3


def test_evaluation_weighs_every_token_once(small: list[str], tmp_path: Path) -> None:
    """Against a plain mean over all tokens, computed one row at a time in float64."""
    _, _, training = train([*small, "schedule.steps=1", "schedule.warmup_steps=0"], tmp_path)
    torch.manual_seed(0)
    ids = torch.randint(0, 1000, (7, 16))
    labels = ids.clone()
    for row in range(7):
        labels[row, row + 2 :] = -100
    batches = [Batch(ids[:4], labels[:4]), Batch(ids[4:], labels[4:])]
    got = _evaluated(training, batches)
    losses = []
    with torch.no_grad():
        for row in range(7):
            logits = training.model(input_ids=ids[row : row + 1]).logits.double()[0]
            for t in range(row + 1):
                losses.append(-torch.log_softmax(logits[t], 0)[ids[row, t + 1]].item())
    assert got == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    per_row = [token_losses(training.model, Batch(ids[:1], labels[:1]))[1]]
    assert int(per_row[0]) == 1


def test_an_empty_validation_set_is_refused(small: list[str], tmp_path: Path) -> None:
    _, _, training = train([*small, "schedule.steps=1", "schedule.warmup_steps=0"], tmp_path)
    with pytest.raises(ValueError, match=r"evaluation\.tokens"):
        _evaluated(training, [])


def _evaluated(training: Training, batches: list[Batch]) -> float:
    task = open_task(training._config, "cpu")
    off = torch.autocast("cpu", enabled=False)
    values = evaluate(task, training.model, batches, torch.device("cpu"), off)
    return values["validation/loss"]


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (7, 0), (5, 5), (1, 0), (10_000, 1000)])
def test_the_schedule_equals_torchs(steps: int, warmup: int) -> None:
    """torch's LinearLR and CosineAnnealingLR, chained, are the independent oracle."""
    schedule = ScheduleConfig(steps=steps, warmup_steps=warmup, final_ratio=0.1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    parts: list[torch.optim.lr_scheduler.LRScheduler] = []
    if warmup:
        linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, max(1, warmup - 1))
        parts = [linear]
    for step in range(1, min(steps, 300) + 1):
        if step <= warmup:
            expected = parts[0].get_last_lr()[0] if warmup > 1 else 1.0
            optimizer.step()
            if step < warmup:
                parts[0].step()
        else:
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
                torch.optim.SGD([parameter], lr=1.0), max(1, steps - warmup), eta_min=0.1
            )
            expected = cosine.base_lrs[0] * _closed_form(cosine, step - warmup)
        assert lr_factor(step, schedule) == pytest.approx(expected, abs=1e-12)
    assert lr_factor(steps, schedule) == pytest.approx(0.1 if warmup < steps else 1.0)


def _closed_form(cosine: torch.optim.lr_scheduler.CosineAnnealingLR, step: int) -> float:
    cosine.last_epoch = step
    return float(cosine._get_closed_form_lr()[0])


def test_a_gpu_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match=r"train\.device=cuda.*train\.device=cpu"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


def test_finished_runs_keep_one_checkpoint(small: list[str], tmp_path: Path) -> None:
    train(small, tmp_path)
    assert checkpoint.steps(tmp_path) == [12]


def test_a_finished_run_started_again_trains_nothing(small: list[str], tmp_path: Path) -> None:
    _, _, first = train(small, tmp_path)
    outcome, journal, second = train(small, tmp_path)
    assert outcome.state == "done" and journal.values == {}
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_config_is_all_that_matters(small: list[str], tmp_path: Path) -> None:
    """The global random state of the process does not reach a run."""
    torch.manual_seed(1)
    _, one, _ = train(small, tmp_path / "a")
    torch.manual_seed(2)
    torch.rand(7)
    _, other, _ = train(small, tmp_path / "b")
    for step in one.values:
        assert {k: v for k, v in one.values[step].items() if k not in CLOCKED} == {
            k: v for k, v in other.values[step].items() if k not in CLOCKED
        }


def test_run_configs_are_plain_values() -> None:
    config = compose_run([])
    assert isinstance(config, RunConfig)
    assert dataclasses.asdict(config)["optimizer"]["name"] == "spam"
