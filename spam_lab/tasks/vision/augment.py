"""One image as the model sees it: cropped, flipped, changed by RandAugment, normalised and erased.

For training as ConvNeXt's recipe does it (timm's transforms), for validation without chance. It
promises that what becomes of an image is a function of the image and of the generator handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from spam_lab.tasks.vision.config import VisionConfig
from spam_lab.tasks.vision.rand_augment import Fill, rand_augment

AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
"""Share of the image that a resized crop takes, and its width over its height."""

ERASED_AREA = (0.02, 1 / 3)
ERASED_RATIO = (0.3, 1 / 0.3)
ATTEMPTS = 10
"""Rectangles tried before none fits."""

MARGIN = 256 / 224
"""To validate, an image is resized to this multiple of what its centre is then cut to."""

SMALL = 32
"""Images of at most this side are never resized to validate."""

Pixels = NDArray[np.float32]
"""A normalised image, [C, H, W]."""


class Augmentation:
    """The recipe's transforms of one image."""

    def __init__(self, config: VisionConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        self._config, self._size = config, config.image_size
        self._mean = np.asarray(mean, np.float32)[:, None, None]
        self._std = np.asarray(std, np.float32)[:, None, None]
        self._fill: Fill = tuple(min(255, round(255 * value)) for value in mean)

    def for_training(self, image: Image.Image, draw: np.random.RandomState) -> Pixels:
        """The image changed at random; `draw` decides everything."""
        config = self._config
        if config.crop_padding is None:
            image = resized_crop(image, self._size, draw)
        else:
            image = padded_crop(image, self._size, config.crop_padding, draw)
        if draw.random_sample() < config.flip:
            image = ImageOps.mirror(image)
        if config.rand_augment is not None:
            image = rand_augment(image, config.rand_augment, self._fill, draw)
        pixels = self._normalised(image)
        if draw.random_sample() < config.erasing:
            erase(pixels, draw)
        return pixels

    def for_validation(self, image: Image.Image) -> Pixels:
        """The image's centre."""
        size = self._size
        if size > SMALL:
            shorter = int(size * MARGIN)
            scale = shorter / min(image.size)
            target = (
                max(shorter, int(image.width * scale)),
                max(shorter, int(image.height * scale)),
            )
            image = image.resize(target, Image.Resampling.BICUBIC)
        if image.size != (size, size):
            left, top = round((image.width - size) / 2), round((image.height - size) / 2)
            image = image.crop((left, top, left + size, top + size))
        return self._normalised(image)

    def _normalised(self, image: Image.Image) -> Pixels:
        values = np.asarray(image, np.float32) / np.float32(255)
        channels_first = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        return (channels_first - self._mean) / self._std


def resized_crop(image: Image.Image, size: int, draw: np.random.RandomState) -> Image.Image:
    """A rectangle of random area, shape and place, resized to `size` x `size`."""
    for _ in range(ATTEMPTS):
        area = draw.uniform(*AREA) * image.width * image.height
        ratio = math.exp(draw.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            left = draw.randint(image.width - width + 1)
            top = draw.randint(image.height - height + 1)
            return _resized(image, left, top, width, height, size)
    shape = min(max(image.width / image.height, RATIO[0]), RATIO[1])
    width = min(image.width, round(image.height * shape))
    height = min(image.height, round(image.width / shape))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return _resized(image, left, top, width, height, size)


def padded_crop(
    image: Image.Image, size: int, padding: int, draw: np.random.RandomState
) -> Image.Image:
    """A square of side `size` of the image between black borders of `padding` pixels."""
    left = draw.randint(image.width + 2 * padding - size + 1) - padding
    top = draw.randint(image.height + 2 * padding - size + 1) - padding
    return image.crop((left, top, left + size, top + size))


def erase(pixels: Pixels, draw: np.random.RandomState) -> None:
    """Fill a random rectangle of a normalised image with noise from N(0, 1), in place."""
    channels, height, width = pixels.shape
    for _ in range(ATTEMPTS):
        area = draw.uniform(*ERASED_AREA) * height * width
        ratio = math.exp(draw.uniform(math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if rows < height and columns < width:
            top = draw.randint(height - rows + 1)
            left = draw.randint(width - columns + 1)
            noise = draw.standard_normal((channels, rows, columns))
            pixels[:, top : top + rows, left : left + columns] = noise
            return


def _resized(
    image: Image.Image, left: int, top: int, width: int, height: int, size: int
) -> Image.Image:
    box = (left, top, left + width, top + height)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
