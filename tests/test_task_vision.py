"""The task `vision`: images against independent readings, labels and losses against re-derivations,
and runs that learn, stop and go on to the bit."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, log_softmax

from spam_lab.config.compose import compose_run
from spam_lab.config.fields import ConfigError
from spam_lab.config.identity import run_id
from spam_lab.config.schema import RunConfig
from spam_lab.data.errors import DataError
from spam_lab.models.kinds import named_kinds
from spam_lab.optim.registry import build_optimizer
from spam_lab.tasks.registry import open_task, require_ready
from spam_lab.tasks.vision import idx, rand_augment
from spam_lab.tasks.vision.augment import Augmentation
from spam_lab.tasks.vision.average import WeightAverage
from spam_lab.tasks.vision.batch import ImageBatch, TrainingLoader
from spam_lab.tasks.vision.config import VisionConfig
from spam_lab.tasks.vision.images import ArrayImages, FolderImages, HubImages, open_images
from spam_lab.tasks.vision.mixing import draw_mix, smoothed
from spam_lab.tasks.vision.model import StochasticDepth, build_classifier, set_depth
from spam_lab.train.loop import Training
from tests.test_train_resume import assert_same

TASKS = ("vision_convnext", "vision_vit")
CLOCKED = ("train/images_per_second", "train/step_seconds", "train/optimizer_seconds")
"""Metrics that measure time, and so differ between any two runs."""


def run_of(*overrides: str) -> RunConfig:
    return compose_run(["task=vision_convnext", "optimizer=adamw", *overrides])


def task_of(*overrides: str) -> VisionConfig:
    task = run_of(*overrides).task
    assert isinstance(task, VisionConfig)
    return task


def idx_file(values: np.ndarray) -> bytes:
    """The format as its description has it, written without the reader's help."""
    header = bytes([0, 0, 8, values.ndim])
    for length in values.shape:
        header += length.to_bytes(4, "big")
    return header + b"".join(int(value).to_bytes(1, "big") for value in values.flat)


# Images


def test_the_digits_are_scikit_learns_each_once() -> None:
    found = open_images(task_of())
    digits = load_digits()
    assert (len(found.train.labels), len(found.validation.labels)) == (1438, 359)
    place = 0
    for part, numbers in (
        (found.train, [n for n in range(1797) if n % 5 != 4]),
        (found.validation, [n for n in range(1797) if n % 5 == 4]),
    ):
        for index, number in enumerate(numbers):
            place += 1
            assert part.labels[index] == digits.target[number]
            shown = np.asarray(part.open(index), float) / 255 * 16
            assert np.abs(shown - digits.images[number]).max() < 0.04, "rounded to 8 bits"
    assert place == len(digits.target)
    train = digits.images[np.arange(1797) % 5 != 4] / 16
    assert found.mean[0] == pytest.approx(train.mean(), abs=1e-3)
    assert found.std[0] == pytest.approx(train.std(), abs=1e-3)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_an_idx_file_is_read_as_it_was_written(shape: list[int], draw: Any) -> None:
    values = np.array([draw.randrange(256) for _ in range(math.prod(shape))], np.uint8)
    values = values.reshape(shape)
    content = idx_file(values)
    assert np.array_equal(idx.parse(content, "made"), values)
    with pytest.raises(DataError, match="truncated"):
        idx.parse(content + b"\0", "made")
    for length in range(len(content)):
        with pytest.raises(DataError):
            idx.parse(content[:length], "made")


@pytest.mark.parametrize("damage", ["other type", "no magic"])
def test_what_is_no_idx_file_is_refused(damage: str) -> None:
    content = bytearray(idx_file(np.zeros((2, 3), np.uint8)))
    content[2 if damage == "other type" else 0] = 9
    with pytest.raises(DataError, match="no IDX file"):
        idx.parse(bytes(content), "made")


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four small files in the place of Fashion-MNIST's, with their checksums."""
    draw = np.random.RandomState(0)
    sums = {}
    for part, count in (("train", 40), ("t10k", 20)):
        for kind, values in (
            ("images-idx3", draw.randint(0, 256, (count, 28, 28))),
            ("labels-idx1", np.arange(count) % 10),
        ):
            content = idx_file(values)
            name = f"{part}-{kind}-ubyte"
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
            sums[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(idx, "FASHION_MNIST", sums)
    return tmp_path


def test_fashion_mnists_files_are_read_and_checked(fashion: Path) -> None:
    task = task_of("task.dataset=fashion_mnist", f"task.path={fashion}")
    found = open_images(task)
    with gzip.open(fashion / "t10k-images-idx3-ubyte.gz") as file:
        content = file.read()
    magic, count, height, width = struct.unpack(">4i", content[:16])
    assert (magic, count, height, width) == (2051, 20, 28, 28)
    images = np.frombuffer(content[16:], np.uint8).reshape(20, 28, 28)
    for index in range(20):
        assert np.array_equal(np.asarray(found.validation.open(index)), images[index])
    assert found.train.labels.tolist() == [n % 10 for n in range(40)]


@pytest.mark.parametrize("damage", ["a flipped bit", "half a file", "missing", "other content"])
def test_damaged_files_are_refused_before_anything_runs(fashion: Path, damage: str) -> None:
    path = fashion / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    if damage == "a flipped bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "half a file":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(gzip.compress(idx_file(np.zeros((40, 28, 28)))))
    with pytest.raises(ConfigError, match="apt-get install"):
        require_ready([run_of("task.dataset=fashion_mnist", f"task.path={fashion}")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of colour images, three to train on and one to validate on."""
    draw = np.random.RandomState(1)
    for part, count in (("train", 3), ("val", 1)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.randint(0, 256, (40, 50, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def imagenet(folder: object, *more: str) -> RunConfig:
    small = ["task.dataset=imagenet", "task.classes=2", "task.image_size=32", "task.patch_size=4"]
    return run_of(*small, f"task.path={folder}", "task.batch_size=4", *more)


def test_a_folder_and_datasets_give_the_same_images(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from datasets import load_dataset

    ours = FolderImages(folder / "train", 3)
    assert ours.classes == ["cat", "dog"] and ours.labels.tolist() == [0, 0, 0, 1, 1, 1]
    cache = str(tmp_path_factory.mktemp("hub"))
    theirs = HubImages(load_dataset(str(folder), cache_dir=cache)["train"], 3)
    assert theirs.labels.tolist() == ours.labels.tolist()
    for index in range(6):
        assert np.array_equal(np.asarray(ours.open(index)), np.asarray(theirs.open(index)))


def test_a_folder_trains_and_its_broken_image_is_named(folder: Path, tmp_path: Path) -> None:
    task = open_task(imagenet(folder), "cpu")
    loss = task.loss(task.model, task.next_batch())
    assert loss.item() / 4 == pytest.approx(math.log(2), abs=0.2)
    (folder / "train" / "dog" / "1.png").write_bytes(b"no image")
    task = open_task(imagenet(folder), "cpu")
    with pytest.raises(DataError, match=r"dog/1\.png cannot be read"):
        for _ in range(2):  # six images in two batches of four: every one of them
            task.loss(task.model, task.next_batch())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("no path", "ILSVRC/imagenet-1k"),
        ("no val", "it has no val/"),
        ("another class", "bird is in one alone"),
        ("three classes", "task.classes=2 is not allowed: 3"),
        ("no Fashion-MNIST", "apt-get install dataset-fashion-mnist"),
        ("twelve digits", "task.classes=12 is not allowed: 10"),
    ],
)
def test_images_that_are_not_there_or_others_are_refused(
    change: str, reason: str, folder: Path
) -> None:
    if change == "no val":
        (folder / "val").rename(folder / "test")
    if change in ("another class", "three classes"):
        (folder / "train" / "bird").mkdir()
    if change == "three classes":
        (folder / "val" / "bird").mkdir()
    run = {
        "no path": imagenet("null"),
        "no Fashion-MNIST": run_of("task.dataset=fashion_mnist", f"task.path={folder}"),
        "twelve digits": run_of("task.classes=12"),
    }.get(change, imagenet(folder))
    with pytest.raises(ConfigError, match=reason):
        require_ready([run])


def test_where_images_lie_changes_no_run_id_and_which_they_are_does() -> None:
    one, other = (run_of("task.dataset=fashion_mnist", f"task.path={p}") for p in ("a", "b"))
    assert run_id(one) == run_id(other) != run_id(run_of())


@pytest.mark.parametrize(
    "override",
    [
        "task.patch_size=2",  # 8 pixels cannot be halved three times after that
        "task.depths=[1,1]",
        "task.path=somewhere",
        "task=vision_vit task.heads=5",
        "task=vision_vit task.patch_size=3",
        "task=vision_vit task.drop_path=0.1",
    ],
)
def test_what_cannot_be_built_is_refused_by_name(override: str) -> None:
    key = override.split()[-1].partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key}=|task\.image_size="):
        run_of(*override.split())


# Augmentation


@pytest.mark.parametrize("name", rand_augment.ALL)
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [0.0, 0.9, 1.0])
def test_every_operation_keeps_the_form_of_an_image(name: str, mode: str, size: float) -> None:
    draw = np.random.RandomState(2)
    pixels = draw.randint(0, 256, (12, 10) if mode == "L" else (12, 10, 3)).astype(np.uint8)
    fill = (128,) if mode == "L" else (120, 110, 100)
    changed = rand_augment.ALL[name](Image.fromarray(pixels), size, -1.0, fill)
    assert changed.size == (10, 12) and changed.mode == mode
    always = ("autocontrast", "equalize", "invert", "posterize")
    if size == 0 and name not in always:
        assert np.array_equal(np.asarray(changed), pixels), "no magnitude, no change"


def test_operations_are_what_they_are_called() -> None:
    pixels = np.random.RandomState(3).randint(0, 256, (20, 20)).astype(np.uint8)
    image = Image.fromarray(pixels)

    def changed(name: str, size: float) -> np.ndarray:
        return np.asarray(rand_augment.ALL[name](image, size, 1.0, (7,))).astype(int)

    wide = pixels.astype(int)
    assert np.array_equal(changed("invert", 0.5), 255 - wide)
    assert np.array_equal(changed("posterize", 0.5), wide // 64 * 64), "two bits are left"
    assert np.array_equal(changed("solarize", 0.75), np.where(wide >= 64, 255 - wide, wide))
    lifted = np.where(wide < 128, np.minimum(wide + 55, 255), wide)
    assert np.array_equal(changed("solarize_add", 0.5), lifted)
    moved = np.full_like(wide, 7)
    moved[:, :11] = wide[:, 9:]
    assert np.array_equal(changed("translate_x", 1.0), moved)
    assert np.abs(changed("brightness", 0.5) - np.minimum(wide * 1.45, 255)).max() <= 1


def test_an_image_is_a_function_of_its_draw() -> None:
    task = task_of("task.rand_augment=9", "task.flip=0.5", "task.erasing=0.5")
    images = open_images(task)
    augmentation = Augmentation(task, images.mean, images.std)

    def seen(seed: int) -> np.ndarray:
        draw = np.random.RandomState(seed)
        return augmentation.for_training(images.train.open(0), draw)

    assert all(np.array_equal(seen(seed), seen(seed)) for seed in range(10))
    assert len({seen(seed).tobytes() for seed in range(10)}) == 10


# Mixing and labels


def graded(count: int, overrides: Mapping[str, object]) -> tuple[VisionConfig, TrainingLoader]:
    """A batch of `count` even images, image i of grey level 10 i and class i, not augmented."""
    task = task_of("task.flip=0", "task.erasing=0", "task.crop_padding=0")
    task = replace(task, classes=count, **overrides)  # type: ignore[arg-type]
    pixels = np.repeat(10 * np.arange(count, dtype=np.uint8), 64).reshape(count, 8, 8)
    images = ArrayImages(pixels, np.arange(count))
    augmentation = Augmentation(task, (0.0,), (1.0,))
    order = np.random.RandomState(4).permutation(count)
    loader = TrainingLoader(task, images, augmentation, order, 0, 0, 0, 5)
    return task, loader


def test_labels_say_how_much_of_each_image_is_there() -> None:
    """Re-derived from the pixels alone: which image is pasted or blended in, and how much of it."""
    count, group, smoothing = 12, 5, 0.2
    kinds = set()
    for step in range(12):
        _, loader = graded(count, {"mixing_rows": group, "label_smoothing": smoothing})
        loader = replace(loader, step=step)
        pixels, targets, labels, _ = loader.load(np.arange(count))
        for row in range(count):
            first = row // group * group
            partner = first + min(first + group, count) - 1 - row
            own, other = int(loader.indices[row]), int(loader.indices[partner])
            assert labels[row] == own
            levels = np.round(pixels[row, 0].double().numpy() * 255, 3)
            if own == other:
                share = 1.0
            elif set(np.unique(levels)) <= {10.0 * own, 10.0 * other}:
                share = float((levels == 10 * own).mean())
                kinds.add("pasted")
            else:
                assert np.ptp(levels) < 1e-2
                share = float((levels.mean() - 10 * other) / (10 * own - 10 * other))
                kinds.add("blended")
            expected = np.full(count, smoothing / count)
            expected[own] += (1 - smoothing) * share
            expected[other] += (1 - smoothing) * (1 - share)
            assert np.abs(targets[row].double().numpy() - expected).max() < 1e-4
    assert kinds == {"pasted", "blended"}


def test_mixing_weights_have_their_distribution() -> None:
    task = task_of()
    mixes = [draw_mix(task, np.random.RandomState(seed)) for seed in range(2000)]
    blended = [mix.weight for mix in mixes if mix.box is None]
    assert abs(len(blended) / 2000 - 0.5) < 0.05
    # Beta(a, a) has the variance 1 / (4 (2 a + 1)).
    assert np.var(blended) == pytest.approx(1 / (4 * 2.6), rel=0.1)
    assert np.mean(blended) == pytest.approx(0.5, abs=0.03)


@given(st.integers(0, 2**31), st.floats(0, 0.5))
@settings(max_examples=20)
def test_smoothed_labels_give_torchs_smoothed_loss(seed: int, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    said = 3 * torch.randn(6, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(7, (6,), generator=generator)
    ours = -(smoothed(labels, 7, smoothing).double() * log_softmax(said, dim=1)).sum()
    theirs = cross_entropy(said, labels, label_smoothing=smoothing, reduction="sum")
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("rows", [12, 13])
def test_parts_of_a_batch_are_the_batch(rows: int) -> None:
    _, loader = graded(rows, {"mixing_rows": 5, "erasing": 0.5, "crop_padding": 2, "flip": 0.5})
    whole = ImageBatch(loader, np.arange(rows)).load()
    for parts in (
        ImageBatch(loader, np.arange(rows)).split(5),
        [ImageBatch(loader, np.arange(rows)).share(rank, 3) for rank in range(3)],
    ):
        assert sum(part.weight for part in parts) == rows
        loaded = [part.load() for part in parts]
        for name in ("pixels", "targets", "labels", "depth"):
            kept = [
                getattr(one, name)[: part.weight] for one, part in zip(loaded, parts, strict=True)
            ]
            assert torch.equal(torch.cat(kept), getattr(whole, name)), name
        padded = [one.targets[part.weight :] for one, part in zip(loaded, parts, strict=True)]
        assert all(not targets.any() for targets in padded)
    shares = [ImageBatch(loader, np.arange(rows)).share(rank, 3) for rank in range(3)]
    assert len({len(share.rows) for share in shares}) == 1, "ranks stay in step"
    assert [part.padding for part in shares[2].split(3)] == [0, int(rows == 13)]


def test_every_step_sees_other_images_and_seeds_decide_which() -> None:
    def pixels(step: int, *overrides: str) -> torch.Tensor:
        task = open_task(run_of("task.batch_size=8", *overrides), "cpu")
        for _ in range(step):
            batch = task.next_batch()
        assert isinstance(batch, ImageBatch)
        return batch.load().pixels

    assert torch.equal(pixels(2, "seed=1", "data_seed=5"), pixels(2, "seed=2", "data_seed=5"))
    assert not torch.equal(pixels(1, "data_seed=5"), pixels(1, "data_seed=6"))
    assert not torch.equal(pixels(1), pixels(2))


# The model


@pytest.mark.parametrize("task", TASKS)
def test_papers_models_have_their_published_sizes(task: str) -> None:
    """28.6 and 5.7 million weights (Liu et al. 2022, Table 1; Touvron et al. 2021, Table 1)."""
    config = run_of(f"task={task}", "scale=paper").task
    assert isinstance(config, VisionConfig)
    with torch.device("meta"):
        model = build_classifier(config, torch.float32, "meta")
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert round(count, 1) == {"vision_convnext": 28.6, "vision_vit": 5.7}[task]


def test_stochastic_depth_drops_rows_and_keeps_the_mean() -> None:
    model = build_classifier(task_of("task.drop_path=0.4"), torch.float32, "cpu")
    depths = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    assert [module.rate for module in depths] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    draws = torch.rand(1000, 5, generator=torch.Generator().manual_seed(0))
    set_depth(model, draws)
    change = torch.ones(1000, 2, 3)
    for number, module in enumerate(depths):
        kept = module(change)[:, 0, 0]
        assert torch.equal(kept == 0, draws[:, number] < module.rate)
        assert kept.mean().item() == pytest.approx(1, abs=0.08)
    assert torch.equal(depths[4].eval()(change), change)


@pytest.mark.parametrize("optimizer", ["adamw", "spam"])
@pytest.mark.parametrize("task", TASKS)
def test_biases_norms_scales_and_positions_are_not_decayed(task: str, optimizer: str) -> None:
    run = run_of(f"task={task}", f"optimizer={optimizer}")
    opened = open_task(run, "cpu")
    built = build_optimizer(run.optimizer, named_kinds(opened.model), 0)
    decay = {id(p): g["weight_decay"] for g in built.param_groups for p in g["params"]}
    names = dict(opened.model.named_parameters())
    matrices = {name for name, parameter in names.items() if parameter.dim() > 1}
    decayed = matrices - {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
    assert {name for name, p in names.items() if decay[id(p)] == 0.05} == decayed
    assert {decay[id(p)] for name, p in names.items() if name not in decayed} == {0.0}
    before = {name: p.detach().clone() for name, p in names.items()}
    for parameter in names.values():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    lr = run.optimizer.lr
    for name, parameter in names.items():
        factor = 1 - lr * 0.05 if name in decayed else 1.0
        assert torch.allclose(parameter, before[name] * factor, rtol=1e-6, atol=0), name


def test_the_average_is_the_weighted_sum_of_all_weights_so_far() -> None:
    decay, draw = 0.9, np.random.RandomState(5)
    history = draw.standard_normal((8, 3, 2))
    model = torch.nn.Linear(2, 3, bias=False)
    average = WeightAverage(decay)
    for step, weights in enumerate(history):
        model.weight.data = torch.from_numpy(weights).float()
        if step == 0:
            average.begin(model)
        else:
            average.update(model)
    shares = [decay**7] + [(1 - decay) * decay ** (7 - step) for step in range(1, 8)]
    expected = np.tensordot(shares, history, axes=1)
    assert np.abs(average.weights(model)["weight"].numpy() - expected).max() < 1e-6


# Whole runs


class Listed:
    """A journal that keeps everything in memory."""

    def __init__(self) -> None:
        self.values: dict[int, dict[str, float]] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        kept = {name: value for name, value in values.items() if name not in CLOCKED}
        self.values.setdefault(step, {}).update(kept)

    def flush(self, durable: bool = False) -> None:
        pass


def short(task: str, *overrides: str) -> RunConfig:
    steps = ["schedule.steps=6", "schedule.warmup_steps=1", "evaluation.every=3"]
    steps.append("task.batch_size=16")
    spam = ["optimizer=spam", "optimizer.delta_t=4", "optimizer.warmup_steps=1"]
    return compose_run([f"task={task}", *spam, *steps, "train.checkpoint_every=2", *overrides])


def trained(config: RunConfig, folder: Path, journal: Listed, stop_at: int = 0) -> Training:
    torch.set_num_threads(1)
    training = Training(config, folder, journal)
    training._should_stop = lambda: training.step == stop_at
    training.run()
    return training


@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_was_stopped_ends_to_the_bit_as_one_that_was_not(
    task: str, tmp_path: Path
) -> None:
    config, journals = short(task), [Listed(), Listed()]
    whole = trained(config, tmp_path / "whole", journals[0])
    torch.rand(7)  # another process has another global generator
    trained(config, tmp_path / "stopped", journals[1], stop_at=3)
    again = trained(config, tmp_path / "stopped", journals[1])
    assert again.step == 6
    assert_same(again.model.state_dict(), whole.model.state_dict())
    assert_same(again.optimizer.state_dict(), whole.optimizer.state_dict())
    assert_same(again._task.state_dict(), whole._task.state_dict())
    assert journals[1].values == journals[0].values
    assert "validation/ema_error" in journals[0].values[3]


def test_micro_batches_give_the_same_losses(tmp_path: Path) -> None:
    """With stochastic depth, erasing and mixing: what is drawn belongs to a row."""
    journals = [Listed(), Listed()]
    for size, journal in zip(("null", "4"), journals, strict=True):
        config = short("vision_convnext", f"train.micro_batch_size={size}", "task.drop_path=0.5")
        trained(config, tmp_path / size, journal)
    for step in range(1, 7):
        losses = [journal.values[step]["train/loss"] for journal in journals]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_state_of_other_images_is_refused() -> None:
    task = open_task(run_of(), "cpu")
    with pytest.raises(DataError, match="not those that this run began with"):
        task.load_state_dict({**task.state_dict(), "images": "others"})


def test_validation_is_what_the_model_says_of_every_held_out_image(tmp_path: Path) -> None:
    journal = Listed()
    training = trained(short("vision_convnext", "task.ema_decay=0.5"), tmp_path, journal)
    last = journal.values[6]
    digits = load_digits()
    held_out = np.arange(1797) % 5 == 4
    images = open_images(task_of())
    shown = np.rint(digits.images[held_out] * 255 / 16) / 255
    pixels = torch.from_numpy((shown - images.mean[0]) / images.std[0]).float()[:, None]
    labels = torch.from_numpy(digits.target[held_out])
    model = training.model.eval()
    for prefix in ("", "ema_"):
        if prefix:
            model.load_state_dict(training._task.state_dict()["average"])
        with torch.no_grad():
            said = model(pixel_values=pixels).logits.double()
        right = (said.argmax(1) == labels).double().mean().item()
        assert last[f"validation/{prefix}accuracy"] == pytest.approx(right, abs=1e-9)
        assert last[f"validation/{prefix}error"] == pytest.approx(1 - right, abs=1e-9)
        loss = cross_entropy(said, labels).item()
        assert last[f"validation/{prefix}loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("scale", ["nano", "small", "paper"])
@pytest.mark.parametrize("task", TASKS)
def test_the_quarters_of_a_run_are_evaluated(task: str, scale: str) -> None:
    run = run_of(f"task={task}", f"scale={scale}")
    assert run.schedule.steps % 4 == 0
    assert run.schedule.steps // 4 % run.evaluation.every == 0
