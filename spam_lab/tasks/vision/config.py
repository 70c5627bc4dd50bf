"""What a run of image classification can be told: the model, the images and the recipe.

Defaults are those of ConvNeXt's training code for ImageNet-1K, which the paper says it adopts. Its
layer-wise decay of learning rates belongs to fine-tuning (its default is 1), so there is none here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spam_lab.config.fields import Problem, choice, mapping, number, numbers, text
from spam_lab.config.schema import TaskConfig

CHANNELS = {"digits": 1, "fashion_mnist": 1, "imagenet": 3}
"""The data sets, and the channels of their images."""

HUB = "hub:"
"""What a path begins with that is a name for `datasets`."""

STAGES = 4
"""A ConvNeXt halves its feature map before every stage but the first."""


@dataclass
class VisionConfig(TaskConfig):
    """Image classification (paper, Appendix E, Table 9)."""

    name: str = text("vision", doc="registry name of the task")
    model: str = text("convnext_tiny", doc="label of the model: convnext_tiny, vit_tiny")
    family: str = choice("convnext", ("convnext", "vit"), doc="transformers model_type")
    hidden_sizes: list[int] = numbers(doc="width of each stage; a ViT has one")
    depths: list[int] = numbers(doc="blocks of each stage")
    heads: int | None = number(None, low=1, doc="attention heads of a ViT")
    patch_size: int = number(4, low=1, unit="pixels", doc="side of the stem's patches")
    drop_path: float = number(
        0.0, low=0, high=1, high_open=True, doc="stochastic depth of the last block (recipe: 0.1)"
    )
    dataset: str = choice("imagenet", tuple(CHANNELS), doc="which images")
    path: str | None = text(
        None,
        doc="Fashion-MNIST: the folder of its four files. ImageNet: a folder with train/ and val/ "
        "and in them a folder a class, or hub:NAME for `datasets` (hub:ILSVRC/imagenet-1k); also "
        "the environment variable SPAM_LAB_IMAGENET",
    )
    classes: int = number(1000, low=2, doc="how many; refused where the images have others")
    image_size: int = number(224, low=2, unit="pixels", doc="side of what the model sees")
    crop_padding: int | None = number(
        None,
        low=0,
        unit="pixels",
        doc="random crop after padding by so much (small images); null: 0.08 to 1 of the area, "
        "resized",
    )
    flip: float = number(0.5, low=0, high=1, doc="chance of a horizontal flip")
    rand_augment: float | None = number(
        9, low=0, high=10, doc="magnitude of RandAugment's two operations; null is off"
    )
    erasing: float = number(0.25, low=0, high=1, doc="chance that a rectangle becomes noise")
    mixup: float = number(0.8, low=0, low_open=True, doc="alpha of mixup's Beta distribution")
    cutmix: float = number(1.0, low=0, low_open=True, doc="alpha of cutmix's, every other time")
    mixing_rows: int = number(
        128, low=1, unit="images", doc="images that share one mixing weight: a GPU's, in the recipe"
    )
    label_smoothing: float = number(
        0.1, low=0, high=1, high_open=True, doc="share of a label that all classes get"
    )
    ema_decay: float = number(
        0.9999, low=0, high=1, high_open=True, doc="decay of the moving average of the weights"
    )
    tables: dict[str, Any] = mapping(
        doc="values above that no divisor gives, by scale, and that follow from the images"
    )

    def cross_problems(self) -> list[Problem]:
        """Violations that span several keys of this group."""
        stages = STAGES if self.family == "convnext" else 1
        found = []
        for key in ("hidden_sizes", "depths"):
            values = getattr(self, key)
            if len(values) != stages or min(values) < 1:
                allowed = f"{stages} whole numbers wherever task.family={self.family}"
                found.append(Problem(f"task.{key}", values, allowed))
        smallest = self.patch_size * 2 ** (stages - 1)
        if self.image_size < smallest:
            allowed = f"at least {smallest}, for task.patch_size={self.patch_size}"
            found.append(Problem("task.image_size", self.image_size, allowed))
        if self.family == "vit":
            found += self._vit_problems()
        if self.path and self.dataset == "digits":
            found.append(Problem("task.path", self.path, "null: scikit-learn has the digits"))
        return found

    def _vit_problems(self) -> list[Problem]:
        found = []
        width = self.hidden_sizes[0] if self.hidden_sizes else 0
        if self.heads is None or width % self.heads:
            found.append(Problem("task.heads", self.heads, f"a divisor of the width {width}"))
        if self.image_size % self.patch_size:
            allowed = f"a divisor of task.image_size={self.image_size}"
            found.append(Problem("task.patch_size", self.patch_size, allowed))
        if self.drop_path:
            allowed = "0 wherever task.family=vit: transformers' ViT has no stochastic depth"
            found.append(Problem("task.drop_path", self.drop_path, allowed))
        return found
