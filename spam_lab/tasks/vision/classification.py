"""The task itself: batches in the order of the data seed, the recipe's loss, accuracy and error.

Validation scores the model and the moving average of its weights over all held-out images, without
augmentation or smoothing. Everything a step draws is a function of the seeds and of the step, so
the state is the number of batches and the average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, log_softmax

from spam_lab.config.fields import ConfigError, Problem
from spam_lab.config.schema import RunConfig
from spam_lab.data.errors import DataError
from spam_lab.data.order import EpochOrder
from spam_lab.tasks.registry import TaskBatch
from spam_lab.tasks.vision.augment import Augmentation
from spam_lab.tasks.vision.average import WeightAverage
from spam_lab.tasks.vision.batch import ImageBatch, TrainingLoader, ValidationLoader
from spam_lab.tasks.vision.config import VisionConfig
from spam_lab.tasks.vision.images import open_images
from spam_lab.tasks.vision.model import build_classifier, logits, set_depth

if TYPE_CHECKING:
    from torch.nn import Module

VALIDATION_BATCH = 256
"""Images of one validation pass."""


class Classification:
    """One classifier and the images it is trained on."""

    def __init__(self, config: RunConfig, place: str) -> None:
        assert isinstance(config.task, VisionConfig)
        if config.train.sharding == "fsdp":
            allowed = "auto or ddp: the moving average needs whole tensors"
            raise ConfigError.of([Problem("train.sharding", "fsdp", allowed)])
        self._config, self._task = config, config.task
        images = open_images(self._task)
        self._train = images.train
        self._augmentation = Augmentation(self._task, images.mean, images.std)
        self._order = EpochOrder(len(images.train.labels), config.data_seed)
        self._taken = 0
        loader = ValidationLoader(self._task, images.validation, self._augmentation)
        rows = np.arange(len(images.validation.labels))
        self.validation: Sequence[TaskBatch] = ImageBatch(loader, rows).split(VALIDATION_BATCH)
        torch.manual_seed(config.seed)
        self.model: nn.Module = build_classifier(
            self._task, getattr(torch, config.precision.weights), place
        )
        self._average = WeightAverage(self._task.ema_decay)
        self.unit = "images"
        self.units_per_step = config.batch_size

    def next_batch(self) -> TaskBatch:
        """The next global batch; its images are read by `loss`."""
        self._average.begin(self.model)
        batch = self._batch(self._taken)
        self._taken += 1
        return batch

    def loss(self, module: Module, batch: TaskBatch) -> Tensor:
        """The sum of the cross entropies with smoothed and mixed labels."""
        loaded = cast(ImageBatch, batch).load()
        set_depth(module, loaded.depth)
        said = logits(module, loaded.pixels)
        return -(loaded.targets * log_softmax(said, dim=1)).sum()

    def score(self, model: Module, batch: TaskBatch) -> Tensor:
        """Images, and of the model and its average: sum of the losses, images classified right."""
        loaded = cast(ImageBatch, batch).load()
        scores = [loaded.counted.double().sum()]
        for said in (logits(model, loaded.pixels), self._averaged(model, loaded.pixels)):
            losses = cross_entropy(said, loaded.labels, reduction="none") * loaded.counted
            right = (said.argmax(dim=1) == loaded.labels) * loaded.counted
            scores += [losses.double().sum(), right.double().sum()]
        return torch.stack(scores)

    def summary(self, totals: Sequence[float]) -> dict[str, float]:
        """Loss, accuracy and error, of the model and (`ema_`) of the average of its weights."""
        count, loss, right, average_loss, average_right = totals
        values = {}
        for prefix, summed, correct in (
            ("", loss, right),
            ("ema_", average_loss, average_right),
        ):
            values[f"validation/{prefix}loss"] = summed / count
            values[f"validation/{prefix}accuracy"] = correct / count
            values[f"validation/{prefix}error"] = 1 - correct / count
        return values

    def updated(self, step: int) -> None:
        """Take the new weights into the average."""
        self._average.update(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Batches taken, which images they were of, and the average."""
        return {
            "taken": self._taken,
            "images": self._train.fingerprint,
            "average": self._average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            DataError: it is of other images.
        """
        if state["images"] != self._train.fingerprint:
            raise DataError(
                f"the images of {self._task.dataset} are not those that this run began with: "
                "restore them, or start the run anew"
            )
        self._taken = state["taken"]
        self._average.load_state_dict(state["average"], self.model)

    def close(self) -> None:
        """Nothing is read ahead."""

    def _batch(self, step: int) -> ImageBatch:
        size = self._config.batch_size
        loader = TrainingLoader(
            config=self._task,
            images=self._train,
            augmentation=self._augmentation,
            indices=self._order.batch(step, size),
            step=step,
            seed=self._config.seed,
            data_seed=self._config.data_seed,
            blocks=sum(self._task.depths),
        )
        return ImageBatch(loader, np.arange(size))

    def _averaged(self, model: Module, pixels: Tensor) -> Tensor:
        """What the model says with the averaged weights."""
        weights = self._average.weights(model)
        dtype = next(model.parameters()).dtype
        said: Any = functional_call(model, weights, kwargs={"pixel_values": pixels.to(dtype)})
        return cast(Tensor, said.logits.float())
