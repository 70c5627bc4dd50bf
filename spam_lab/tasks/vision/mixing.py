"""Mixup and CutMix as ConvNeXt's recipe has them, and the labels that belong to a mixed image.

Image i of a group of n is mixed with image n - 1 - i, all of a group with one weight: every other
time (at random) as w x + (1 - w) y, otherwise by a rectangle of y pasted into x, where w is the
share of x that is left. Labels are smoothed, then mixed with the same w. A group is drawn from the
seed, the step and its number, so that neither micro-batches nor ranks change it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spam_lab.tasks.vision.config import VisionConfig

Box = tuple[int, int, int, int]
"""Top, bottom, left, right; the second and fourth are the first beyond."""


@dataclass(frozen=True)
class Mix:
    """How a group is mixed: the weight of an image itself, and where its partner is pasted."""

    weight: float
    box: Box | None = None

    def pixels(self, own: Tensor, partner: Tensor) -> Tensor:
        """Images [B, C, H, W] with their partners."""
        if self.box is None:
            return self.weight * own + (1 - self.weight) * partner
        top, bottom, left, right = self.box
        mixed = own.clone()
        mixed[:, :, top:bottom, left:right] = partner[:, :, top:bottom, left:right]
        return mixed

    def labels(self, own: Tensor, partner: Tensor) -> Tensor:
        """Distributions [B, classes] with those of the partners."""
        return self.weight * own + (1 - self.weight) * partner


def draw_mix(config: VisionConfig, draw: np.random.RandomState) -> Mix:
    """The mix of one group, on square images."""
    size = config.image_size
    pasted = draw.random_sample() < 0.5
    alpha = config.cutmix if pasted else config.mixup
    weight = float(draw.beta(alpha, alpha))
    if not pasted:
        return Mix(weight)
    side = int(size * math.sqrt(1 - weight))
    row, column = draw.randint(size), draw.randint(size)
    top, bottom = _clipped(row, side, size)
    left, right = _clipped(column, side, size)
    return Mix(1 - (bottom - top) * (right - left) / size**2, (top, bottom, left, right))


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Distributions [B, classes]: 1 - smoothing on the label, and the rest on all alike."""
    even = torch.full((len(labels), classes), smoothing / classes)
    return even.scatter(1, labels[:, None], 1 - smoothing + smoothing / classes)


def _clipped(centre: int, side: int, size: int) -> tuple[int, int]:
    """Where a side around `centre` begins and ends within the image."""
    return max(0, centre - side // 2), min(size, centre + (side + 1) // 2)
