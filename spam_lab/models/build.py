"""Building a language model from its config, with transformers' own code for its architecture.

It promises the same weights from the same config and seed, whatever the device and without touching
the caller's random numbers, and refuses by name every key that the architecture does not have:
transformers itself would take a misspelt one and ignore it.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spam_lab.config.fields import ConfigError, Problem
from spam_lab.config.schema import ModelConfig, StabilizerConfig
from spam_lab.models.stabilizers import stabilize

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Our sizes, by the names most families have for them. A family with another name for one of them
# gives it in model.architecture.
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
    "initializer_range",
)
# How the paper trains every family, besides no dropout.
_WHERE_KNOWN = {"rms_norm_eps": 1e-6, "use_cache": False, "tie_word_embeddings": False}


def build_model(
    config: ModelConfig,
    *,
    sequence_length: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    stabilizer: StabilizerConfig | None = None,
) -> PreTrainedModel:
    """A freshly initialised causal language model, in training mode; `stabilizer` None is none.

    Weights are drawn on the CPU in float32, from `seed` alone, and then rounded to `dtype`, so they
    are the same in every precision and on every device. (Without AVX2, torch's normal numbers
    differ in their last bits.) Buffers keep float32: in bfloat16, as in the reference, the angles
    of rotary position embeddings are off by up to half a radian at position 256.

    Raises:
        ConfigError: if the family is unknown, or does not have what `config` gives it, or
            `stabilizer` does not fit it.
    """
    built_config = _family_config(config, sequence_length)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _from_config(built_config)
        stabilize(model, stabilizer or StabilizerConfig(), config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    nn.Module.to(model, device=device)  # transformers' own `to` has no usable type
    model.train()
    return model


def parameter_count(
    config: ModelConfig, sequence_length: int = 256, stabilizer: StabilizerConfig | None = None
) -> int:
    """Number of parameters, what `stabilizer` adds included, without allocating them.

    `sequence_length` matters only to a family that learns its positions.

    Raises:
        ConfigError: as `build_model`.
    """
    with torch.device("meta"):
        model = _from_config(_family_config(config, sequence_length))
        stabilize(model, stabilizer or StabilizerConfig(), config)
    return sum(parameter.numel() for parameter in model.parameters())


def _from_config(config: PreTrainedConfig) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM  # slow to import

    model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, dtype=torch.float32, attn_implementation="sdpa"
    )
    return model


def _family_config(config: ModelConfig, sequence_length: int) -> PreTrainedConfig:
    """The family's own config with every value that it knows by name."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    known = _known_defaults(config.family)
    unknown = [key for key in config.architecture if key not in known]
    if unknown:
        raise ConfigError.of([_no_such_key(config, key, known) for key in unknown])
    values: dict[str, Any] = {key: 0.0 for key, default in known.items() if _drops(key, default)}
    values |= {key: value for key, value in _WHERE_KNOWN.items() if key in known}
    if "max_position_embeddings" in known:
        values["max_position_embeddings"] = sequence_length
    for size in _SIZES:
        value = getattr(config, size)
        if size in known:
            values[size] = value
        elif value not in config.architecture.values():
            raise ConfigError.of([_not_taken(config, size, value)])
    values |= config.architecture
    try:
        return AutoConfig.for_model(config.family, **values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"model={config.name}: {config.family} refuses it: {reason}") from error


def _drops(key: str, default: Any) -> bool:
    return "drop" in key and isinstance(default, int | float) and not isinstance(default, bool)


def _known_defaults(family: str) -> dict[str, Any]:
    """The names that the family's config gives a meaning to, and their defaults.

    Raises:
        ConfigError: if there is no causal language model of that family.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    if family not in CONFIG_MAPPING or CONFIG_MAPPING[family] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        near = difflib.get_close_matches(family, list(CONFIG_MAPPING), n=5, cutoff=0.4)
        allowed = f"a model_type of transformers' causal language models; near: {', '.join(near)}"
        raise ConfigError.of([Problem("model.family", family, allowed)])
    config_class = CONFIG_MAPPING[family]
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
    return defaults | dict.fromkeys(config_class.attribute_map)


def _no_such_key(config: ModelConfig, key: str, known: Iterable[str]) -> Problem:
    near = difflib.get_close_matches(key, list(known), n=3, cutoff=0.5)
    hint = f"; near: {', '.join(near)}" if near else ""
    allowed = f"{config.family} has no such key{hint}"
    return Problem(f"model.architecture.{key}", config.architecture[key], allowed)


def _not_taken(config: ModelConfig, size: str, value: float) -> Problem:
    allowed = (
        f"{config.family} has no {size}; give the same value under the family's own name "
        f"for it in model.architecture"
    )
    return Problem(f"model.{size}", value, allowed)
