"""The images of a data set and their classes, whichever of the four ways they are kept in.

scikit-learn's digits (in every installation), Fashion-MNIST's files, a folder with `train/` and
`val/` and a folder a class, and `datasets`. It promises that a number always means the same image,
and that images of other classes than asked for are refused before anything is trained on them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spam_lab.config.fields import ConfigError, Problem
from spam_lab.data.errors import DataError
from spam_lab.tasks.vision.config import CHANNELS, HUB, VisionConfig
from spam_lab.tasks.vision.idx import FASHION_MNIST, fashion_mnist

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""By which everybody normalises ImageNet, of values in [0, 1]."""

VALIDATION_SHARE = 5
"""Every fifth digit validates: the digits come in no parts, and writer by writer."""

TRAIN, VALIDATION = "train", "val"
"""The two parts of a folder."""

MODES = {1: "L", 3: "RGB"}
"""Pillow's name of a number of channels."""


class Images(Protocol):
    """A sequence of images with their classes.

    Attributes:
        labels: int64 [N], from 0.
        fingerprint: tells these images from others.
    """

    labels: NDArray[np.int64]
    fingerprint: str

    def open(self, index: int) -> Image.Image:
        """The image, 8 bits a channel. DataError if it cannot be read. Any thread may call it."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Images to train on and to validate on, and the mean and deviation of their channels."""

    train: Images
    validation: Images
    mean: Sequence[float]
    std: Sequence[float]


class ArrayImages:
    """Grey images in memory, uint8 [N, H, W]."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[Any]) -> None:
        self._images = images
        self.labels = labels.astype(np.int64)
        content = np.ascontiguousarray(images).tobytes() + self.labels.tobytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def open(self, index: int) -> Image.Image:
        """The image of that number."""
        return Image.fromarray(self._images[index])


class FolderImages:
    """Image files in a folder a class; classes and files in the order of their names."""

    def __init__(self, folder: Path, channels: int) -> None:
        self._mode = MODES[channels]
        self._paths: list[Path] = []
        labels: list[int] = []
        self.classes = class_names(folder)
        listing = hashlib.sha256()
        for label, name in enumerate(self.classes):
            files = sorted(entry.name for entry in os.scandir(folder / name) if entry.is_file())
            if not files:
                raise DataError(f"{folder / name} has no images")
            self._paths += [folder / name / file for file in files]
            labels += [label] * len(files)
            listing.update("\n".join([name, *files, ""]).encode())
        self.labels = np.asarray(labels, dtype=np.int64)
        self.fingerprint = listing.hexdigest()

    def open(self, index: int) -> Image.Image:
        """The image of that number."""
        path = self._paths[index]
        try:
            with Image.open(path) as image:
                return image.convert(self._mode)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from None


class HubImages:
    """One split of a data set of the hub, with the columns `image` and `label`."""

    def __init__(self, split: Any, channels: int) -> None:
        self._split, self._mode = split, MODES[channels]
        self.labels = np.asarray(split["label"], dtype=np.int64)
        self.fingerprint = hashlib.sha256(self.labels.tobytes()).hexdigest()

    def open(self, index: int) -> Image.Image:
        """The image of that number."""
        try:
            image: Image.Image = self._split[index]["image"]
            return image.convert(self._mode)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"image {index} cannot be read: {error}") from None


def open_images(config: VisionConfig) -> Dataset:
    """The images that `config` names.

    Raises:
        ConfigError: they are not here, or have other classes.
        DataError: a file is damaged, or the hub cannot be reached.
    """
    require_images(config)
    if config.dataset == "imagenet":
        parts = _from_hub(config) if _hub_name(config) else _from_folder(config)
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        return Dataset(*parts, mean, std)
    arrays = _digits() if config.dataset == "digits" else _fashion(config)
    (images, labels), (held_out, held_out_labels) = arrays
    scaled = images.astype(np.float64) / 255
    return Dataset(
        ArrayImages(images, labels),
        ArrayImages(held_out, held_out_labels),
        (float(scaled.mean()),),
        (float(scaled.std()),),
    )


def require_images(config: VisionConfig) -> None:
    """Refuse images that are not here, damaged, or of other classes; the hub is not asked.

    Raises:
        ConfigError: naming the package or the path that would provide them.
    """
    if config.dataset == "digits":
        _require_classes(config, 10)
    elif config.dataset == "fashion_mnist":
        _require_classes(config, 10)
        _require_fashion(config)
    elif config.path is None:
        allowed = (
            "a folder with train/ and val/ and in them a folder a class, or hub:ILSVRC/imagenet-1k "
            "for `datasets` (the hub asks you to accept its terms); also as SPAM_LAB_IMAGENET"
        )
        raise ConfigError.of([Problem("task.path", None, allowed)])
    elif not _hub_name(config):
        _require_folder(config, Path(config.path))


def class_names(folder: Path) -> list[str]:
    """The folders in `folder`, in order."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


_Arrays = tuple[NDArray[np.uint8], NDArray[Any]]


def _digits() -> tuple[_Arrays, _Arrays]:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    held_out = np.arange(len(images)) % VALIDATION_SHARE == VALIDATION_SHARE - 1
    labels = digits.target
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def _fashion(config: VisionConfig) -> tuple[_Arrays, _Arrays]:
    folder = _fashion_folder(config)
    return fashion_mnist(folder, "train"), fashion_mnist(folder, "t10k")


def _fashion_folder(config: VisionConfig) -> Path:
    if config.path is None:
        raise ConfigError.of([Problem("task.path", None, "the folder of Fashion-MNIST's files")])
    return Path(config.path)


def _require_fashion(config: VisionConfig) -> None:
    folder = _fashion_folder(config)
    missing = [
        name
        for name in FASHION_MNIST
        if not any((folder / f"{name}{suffix}").is_file() for suffix in (".gz", ""))
    ]
    if missing:
        raise ConfigError(
            f"Fashion-MNIST is not in {folder} ({missing[0]}.gz is missing): "
            "apt-get install dataset-fashion-mnist, or give task.path=FOLDER of its four files"
        )
    try:
        _fashion(config)
    except DataError as error:
        raise ConfigError(f"{error}: apt-get install --reinstall dataset-fashion-mnist") from None


def _from_folder(config: VisionConfig) -> tuple[Images, Images]:
    assert config.path is not None
    folder, channels = Path(config.path), CHANNELS[config.dataset]
    return FolderImages(folder / TRAIN, channels), FolderImages(folder / VALIDATION, channels)


def _require_folder(config: VisionConfig, folder: Path) -> None:
    for part in (TRAIN, VALIDATION):
        if not (folder / part).is_dir():
            allowed = f"a folder with {TRAIN}/ and {VALIDATION}/; it has no {part}/"
            raise ConfigError.of([Problem("task.path", folder, allowed)])
    train, held_out = class_names(folder / TRAIN), class_names(folder / VALIDATION)
    if train != held_out:
        first = sorted(set(train) ^ set(held_out))[0]
        allowed = f"the same classes in {TRAIN}/ and {VALIDATION}/; {first} is in one alone"
        raise ConfigError.of([Problem("task.path", folder, allowed)])
    _require_classes(config, len(train))


def _hub_name(config: VisionConfig) -> str:
    """The name for `datasets`; empty where a folder is meant."""
    path = config.path or ""
    return path.removeprefix(HUB) if path.startswith(HUB) else ""


def _from_hub(config: VisionConfig) -> tuple[Images, Images]:
    from datasets import load_dataset  # type: ignore[import-untyped]

    name = _hub_name(config)
    try:
        found = load_dataset(name)
        splits = found["train"], found["validation" if "validation" in found else "test"]
        names = splits[0].features["label"].names
    except Exception as error:  # whatever hub, network and cache may raise
        raise DataError(f"{name} cannot be had through `datasets`: {error}") from error
    _require_classes(config, len(names))
    channels = CHANNELS[config.dataset]
    return HubImages(splits[0], channels), HubImages(splits[1], channels)


def _require_classes(config: VisionConfig, found: int) -> None:
    if config.classes != found:
        raise ConfigError.of([Problem("task.classes", config.classes, f"{found}, as the images")])
