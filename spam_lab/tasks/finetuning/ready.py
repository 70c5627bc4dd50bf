"""What a fine-tuning run must have before it is submitted: weights and rows, here and fitting.

It promises to read no weights, and rows only where they are small or were read before.
"""

from __future__ import annotations

from pathlib import Path

from spam_lab.config.fields import ConfigError, Problem
from spam_lab.config.schema import RunConfig
from spam_lab.tasks.finetuning import FineTuningConfig
from spam_lab.tasks.finetuning.documents import require_file
from spam_lab.tasks.finetuning.prompts import INSTRUCTED
from spam_lab.tasks.finetuning.weights import SMOLLM2, model_config, require_weights


def require(config: RunConfig) -> None:
    """Refuse what cannot be trained here.

    Raises:
        ConfigError: with every reason, each naming a key, a package or a path.
    """
    settings = config.task
    assert isinstance(settings, FineTuningConfig)
    refused = [str(problem) for problem in _untaught(settings)]
    for name in settings.tasks:
        for training in (True, False):
            try:
                require_file(name, training, settings.rows)
            except ConfigError as error:
                refused.append(str(error))
    try:
        _require_model(settings, Path(config.paths.cache))
    except ConfigError as error:
        refused.append(str(error))
    if refused:
        raise ConfigError("\n".join(dict.fromkeys(refused)))


def _untaught(settings: FineTuningConfig) -> list[Problem]:
    """Tasks that the template has no words for."""
    if settings.template != "commonsense170k":
        return []
    absent = [name for name in settings.tasks if name not in INSTRUCTED]
    allowed = f"completion: Commonsense170K has no {', '.join(absent)}"
    return [Problem("task.template", settings.template, allowed)] if absent else []


def _require_model(settings: FineTuningConfig, cache: Path) -> None:
    require_weights(settings.weights)
    if settings.weights != SMOLLM2:
        model_config(settings, settings.weights)
    elif settings.layers is not None and settings.layers > _SMOLLM2_LAYERS:
        allowed = f"at most the {_SMOLLM2_LAYERS} layers of smollm2"
        raise ConfigError.of([Problem("task.layers", settings.layers, allowed)])


_SMOLLM2_LAYERS = 30
"""Known before its file is converted; a test holds it to the file."""
