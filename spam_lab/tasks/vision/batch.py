"""Batches of images that are read only where they are needed: each rank reads its own rows.

A batch is row numbers and a loader. Moving it to a device moves nothing yet; `load` decodes and
augments its rows, and their mixing partners, in as many threads as there are cores. It promises
that a row is the same in every split and share of its batch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spam_lab.data.order import random_state
from spam_lab.tasks.vision.augment import Augmentation, Pixels
from spam_lab.tasks.vision.config import VisionConfig
from spam_lab.tasks.vision.images import Images
from spam_lab.tasks.vision.mixing import draw_mix, smoothed

Rows = NDArray[np.int64]

AUGMENTING, MIXING, DEPTH = 1, 2, 3
"""What a stream of random numbers is for: the last word of its position."""

THREADED = 64
"""Side of an image in pixels from which on a thread saves more than it costs."""


@dataclass(frozen=True)
class Loaded:
    """What a model is given, on one device.

    Attributes:
        pixels: float32 [B, C, H, W].
        targets: float32 [B, classes], each row a distribution; zeros in a row that does not count.
        labels: int64 [B], the class of the image itself.
        counted: float32 [B], 0 for a row that only keeps a rank in step.
        depth: float32 [B, blocks] in [0, 1), what stochastic depth compares with its rates.
    """

    pixels: Tensor
    targets: Tensor
    labels: Tensor
    counted: Tensor
    depth: Tensor


class Loader(Protocol):
    """Reads rows of a global batch by their numbers in it."""

    def load(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels, targets, labels and depth of these rows, as in `Loaded`."""
        ...


@dataclass(frozen=True)
class ImageBatch:
    """Rows of a global batch, and how they are read. `padding` rows at the end do not count."""

    loader: Loader
    rows: Rows
    padding: int = 0
    device: torch.device | str = "cpu"

    @property
    def weight(self) -> int:
        """Images that count."""
        return len(self.rows) - self.padding

    def to(self, device: torch.device | str) -> ImageBatch:
        """The same batch, to be read to `device`."""
        return replace(self, device=device)

    def split(self, size: int) -> list[ImageBatch]:
        """Batches of `size` rows, in order; the last one may have fewer."""
        end = self.weight
        return [
            replace(self, rows=part, padding=max(0, min(len(part), start + len(part) - end)))
            for start in range(0, len(self.rows), size)
            for part in (self.rows[start : start + size],)
        ]

    def share(self, rank: int, size: int) -> ImageBatch:
        """The rows of one of `size` ranks, in order, as evenly as they divide.

        Ranks that get a row less than others get one that does not count beside theirs.
        """
        each, more = divmod(len(self.rows), size)
        start = rank * each + min(rank, more)
        mine = self.rows[start : start + each + (rank < more)]
        if not more or rank < more:
            return replace(self, rows=mine)
        return replace(self, rows=np.concatenate([mine, self.rows[:1]]), padding=1)

    def load(self) -> Loaded:
        """Read the rows. DataError if one cannot be read."""
        pixels, targets, labels, depth = self.loader.load(self.rows)
        counted = torch.ones(len(self.rows))
        counted[self.weight :] = 0
        targets = targets * counted[:, None]
        parts = (pixels, targets, labels, counted, depth)
        return Loaded(*(part.to(self.device) for part in parts))


@dataclass(frozen=True)
class TrainingLoader:
    """The global batch of one step: augmented, mixed, labels smoothed.

    Attributes:
        step: from 0; with `data_seed` it decides all that augmentation and mixing draw.
        indices: int64 [B], the image of every row.
        seed: with `step` it decides what stochastic depth draws.
        blocks: how many blocks the model has.
    """

    config: VisionConfig
    images: Images
    augmentation: Augmentation
    indices: Rows
    step: int
    seed: int
    data_seed: int
    blocks: int

    def load(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As the protocol says."""
        partners = self._partners(rows)
        needed, places = np.unique(np.concatenate([rows, partners]), return_inverse=True)
        pixels = torch.from_numpy(np.stack(_each(self._augmented, needed, self.config.image_size)))
        labels = torch.from_numpy(self.images.labels[self.indices[needed]])
        targets = smoothed(labels, self.config.classes, self.config.label_smoothing)
        own, partner = torch.from_numpy(places).reshape(2, -1)
        mixed = torch.empty_like(pixels[own]), torch.empty_like(targets[own])
        groups = rows // self.config.mixing_rows
        for group in np.unique(groups).tolist():
            at = torch.from_numpy(groups == group)
            mix = draw_mix(self.config, random_state(self.data_seed, self.step, group, MIXING))
            mixed[0][at] = mix.pixels(pixels[own[at]], pixels[partner[at]])
            mixed[1][at] = mix.labels(targets[own[at]], targets[partner[at]])
        return *mixed, labels[own], self._depth[torch.from_numpy(rows)]

    @cached_property
    def _depth(self) -> Tensor:
        draw = random_state(self.seed, self.step, DEPTH)
        return torch.from_numpy(
            draw.random_sample((len(self.indices), self.blocks)).astype(np.float32)
        )

    def _partners(self, rows: Rows) -> Rows:
        """The row that each is mixed with: the mirror image within its group."""
        size = self.config.mixing_rows
        first = rows // size * size
        return first + np.minimum(first + size, len(self.indices)) - 1 - rows

    def _augmented(self, row: int) -> Pixels:
        draw = random_state(self.data_seed, self.step, row, AUGMENTING)
        image = self.images.open(int(self.indices[row]))
        return self.augmentation.for_training(image, draw)


@dataclass(frozen=True)
class ValidationLoader:
    """Images as they are, each with its own label; a row is the image of that number."""

    config: VisionConfig
    images: Images
    augmentation: Augmentation

    def load(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As the protocol says; there is no depth."""
        pixels = torch.from_numpy(np.stack(_each(self._centre, rows, self.config.image_size)))
        labels = torch.from_numpy(self.images.labels[rows])
        targets = smoothed(labels, self.config.classes, 0.0)
        return pixels, targets, labels, torch.empty(len(rows), 0)

    def _centre(self, row: int) -> Pixels:
        return self.augmentation.for_validation(self.images.open(row))


class _Read(Protocol):
    def __call__(self, row: int, /) -> Pixels: ...


def _each(read: _Read, rows: Rows, size: int) -> Sequence[Pixels]:
    """Every row read, by threads where images are large; Pillow lets go of Python's lock."""
    numbers = rows.tolist()
    if size < THREADED:
        return [read(row) for row in numbers]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(read, numbers))
