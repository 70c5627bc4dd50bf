"""RandAugment as ConvNeXt's recipe has it, `rand-m9-mstd0.5-inc1` of timm, in Pillow's operations.

Two of fifteen operations, each applied with chance 1/2, with a magnitude drawn from N(9, 0.5) and
cut to [0, 10]; "increasing" means that a larger magnitude always changes the image more. Everything
is drawn from the generator that is handed in, which torchvision and timm do not offer: they draw
from generators that all threads share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

OPERATIONS = 2
CHANCE = 0.5
DEVIATION = 0.5
LARGEST = 10.0
"""The magnitude at which an operation is at its end."""

Fill = tuple[int, ...]
"""The colour of what comes into an image from outside, a value a channel."""

Operation = Callable[[Image.Image, float, float, Fill], Image.Image]
"""(image, magnitude in [0, 1], sign, fill) to the changed image."""


def _moved(image: Image.Image, matrix: Sequence[float], fill: Fill) -> Image.Image:
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        tuple(matrix),
        Image.Resampling.BICUBIC,
        fillcolor=_colour(image, fill),
    )


def _colour(image: Image.Image, fill: Fill) -> int | Fill:
    return fill[0] if image.mode == "L" else fill


def _rotate(image: Image.Image, size: float, sign: float, fill: Fill) -> Image.Image:
    return image.rotate(30 * size * sign, Image.Resampling.BICUBIC, fillcolor=_colour(image, fill))


def _solarize_add(image: Image.Image, size: float, sign: float, fill: Fill) -> Image.Image:
    added = min(128, int(110 * size))
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _posterize(image: Image.Image, size: float, sign: float, fill: Fill) -> Image.Image:
    bits = 4 - int(4 * size)
    # Pillow refuses to keep no bit at all, which leaves a black image.
    return ImageOps.posterize(image, bits) if bits else image.point([0] * 256 * _bands(image))


def _bands(image: Image.Image) -> int:
    return len(image.getbands())


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def enhance(image: Image.Image, size: float, sign: float, fill: Fill) -> Image.Image:
        return kind(image).enhance(max(0.1, 1 + 0.9 * size * sign))

    return enhance


ALL: dict[str, Operation] = {
    "autocontrast": lambda image, size, sign, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, size, sign, fill: ImageOps.equalize(image),
    "invert": lambda image, size, sign, fill: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": lambda image, size, sign, fill: ImageOps.solarize(image, 256 - int(256 * size)),
    "solarize_add": _solarize_add,
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": lambda image, size, sign, fill: _moved(
        image, (1, 0.3 * size * sign, 0, 0, 1, 0), fill
    ),
    "shear_y": lambda image, size, sign, fill: _moved(
        image, (1, 0, 0, 0.3 * size * sign, 1, 0), fill
    ),
    "translate_x": lambda image, size, sign, fill: _moved(
        image, (1, 0, 0.45 * size * sign * image.width, 0, 1, 0), fill
    ),
    "translate_y": lambda image, size, sign, fill: _moved(
        image, (1, 0, 0, 0, 1, 0.45 * size * sign * image.height), fill
    ),
}
"""The operations by name."""


def rand_augment(
    image: Image.Image, magnitude: float, fill: Fill, draw: np.random.RandomState
) -> Image.Image:
    """The image after two random operations.

    Args:
        image: 8 bits a channel, grey or colour.
        magnitude: the mean one, 0 to 10.
        fill: what comes into the image from outside.
        draw: decides everything.
    """
    operations = list(ALL.values())
    for operation in (operations[draw.randint(len(operations))] for _ in range(OPERATIONS)):
        # All is drawn whether it is used or not, so that no operation shifts the draws of the next.
        applied, negative = draw.random_sample(2) < (CHANCE, 0.5)
        drawn = float(np.clip(draw.normal(magnitude, DEVIATION), 0, LARGEST))
        if applied:
            image = operation(image, drawn / LARGEST, -1.0 if negative else 1.0, fill)
    return image
