"""Image classification with ConvNeXt's recipe: the paper's Table 9 (Appendix E).

ConvNeXt-T or ViT-Tiny on ImageNet-1K, or small relatives of both on a data set that is at hand.
This file registers the task and loads nothing that it needs; the other files of the package do.
"""

from __future__ import annotations

from typing import Any

from spam_lab.config.schema import RunConfig
from spam_lab.tasks.registry import task
from spam_lab.tasks.vision.config import VisionConfig


def check(config: RunConfig) -> None:
    """Refuse a run whose images are not here, or not those that it names.

    Raises:
        ConfigError: naming the package or the path that would provide them.
    """
    from spam_lab.tasks.vision.images import require_images

    assert isinstance(config.task, VisionConfig)
    require_images(config.task)


@task("vision", VisionConfig, check)
def open_vision(config: RunConfig, place: str) -> Any:
    """The run's model and images."""
    from spam_lab.tasks.vision.classification import Classification

    return Classification(config, place)
