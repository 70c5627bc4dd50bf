"""Pretrained models and their tokenizers: from the package, a folder or the hub.

It promises weights from safetensors or GGUF files alone, never from a pickle; every weight of the
model from the file and none drawn at random; no dropout; and no code from a repository.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spam_lab.config.fields import ConfigError, Problem
from spam_lab.data.errors import DataError
from spam_lab.data.tokenizer import Tokenizer
from spam_lab.tasks.finetuning.encoding import TextEncoder
from spam_lab.tasks.finetuning.gguf_file import convert, require_reader
from spam_lab.tasks.finetuning.packages import WEIGHTS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from spam_lab.tasks.finetuning import FineTuningConfig

SMOLLM2 = "smollm2"

_KNOWN_TOKEN = "a"
_BEGINNING = 1 << 20


def require_weights(name: str) -> None:
    """Refuse weights that are not here, without reading any.

    Raises:
        ConfigError: naming the package and the command, or what the folder lacks.
    """
    if name == SMOLLM2:
        WEIGHTS.locate()
        require_reader()
        return
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or name.startswith((".", "/", "~")):
            raise _refused(name, "there is no such folder")
        return  # a hub name: transformers says what it is when its config is asked for
    if not list(folder.glob("*.safetensors")):
        pickled = [path.name for path in folder.glob("*.bin")]
        held = f"has {', '.join(pickled)}, which may run code when read, and" if pickled else "has"
        raise _refused(name, f"the folder {held} no *.safetensors: save it as safetensors")
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise _refused(name, f"the folder has no {needed}")


def place_of(name: str, cache: Path) -> str:
    """What transformers is to be given: the package's file converted once, a folder or a hub name.

    Raises:
        ConfigError: the package is not here.
        DataError: its file is damaged.
    """
    require_weights(name)
    if name != SMOLLM2:
        return name
    folder = cache / "weights" / f"{SMOLLM2}-{WEIGHTS.sha256[:16]}"
    if not folder.is_dir():
        convert(WEIGHTS.verified(), folder)
    return str(folder)


def model_config(settings: FineTuningConfig, place: str) -> PreTrainedConfig:
    """The model's config, with the first `layers` of its layers.

    Raises:
        ConfigError: it cannot be had, or has fewer layers or positions than are asked for.
    """
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        allowed = (
            f"neither smollm2, nor a folder, nor to be had from the hub ({reason}). Set HF_HOME to "
            "a cache that has it or HF_ENDPOINT to a mirror"
        )
        raise _refused(settings.weights, allowed) from None
    if settings.layers is not None:
        if settings.layers > config.num_hidden_layers:
            allowed = f"at most the {config.num_hidden_layers} layers of {settings.weights}"
            raise ConfigError.of([Problem("task.layers", settings.layers, allowed)])
        config.num_hidden_layers = settings.layers
    limit = getattr(config, "max_position_embeddings", None)
    for key in ("sequence_length", "test_length"):
        length = getattr(settings, key)
        if limit is not None and length is not None and length > limit:
            allowed = f"at most the {limit} positions of {settings.weights}"
            raise ConfigError.of([Problem(f"task.{key}", length, allowed)])
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    config.use_cache = False
    return config  # type: ignore[no-any-return]


def load_model(
    settings: FineTuningConfig, place: str, dtype: torch.dtype, device: str
) -> PreTrainedModel:
    """The pretrained model in training mode, float32 buffers included.

    Raises:
        ConfigError: as `model_config`; or the files lack some of its weights.
        DataError: a file is damaged.
    """
    import torch
    from safetensors import SafetensorError
    from torch import nn
    from transformers import AutoModelForCausalLM

    config = model_config(settings, place)
    # transformers draws what it then overwrites.
    with torch.random.fork_rng(devices=[]), _quiet():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                place,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                attn_implementation="sdpa",
                trust_remote_code=False,
            )
        except SafetensorError as error:
            raise DataError(f"the weights of {settings.weights} are damaged: {error}") from None
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise _refused(settings.weights, f"transformers cannot load it: {reason}") from None
    model, found = loaded
    absent = sorted([*found["missing_keys"], *map(str, found.get("mismatched_keys", ()))])
    if absent:
        raise _refused(settings.weights, f"its files lack {', '.join(absent[:5])}")
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    nn.Module.to(model, device=device)
    model.train()
    return model  # type: ignore[no-any-return]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bar, and its report on the layers that were left out."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def load_encoder(name: str, place: str, vocabulary: int) -> TextEncoder:
    """The tokenizer that belongs to the weights.

    Raises:
        ConfigError: there is none, or it has ids that the model has no row for.
    """
    from transformers import AutoTokenizer

    try:
        pretrained: Any = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise _refused(name, f"transformers cannot read its tokenizer: {reason}") from None
    backend, end = getattr(pretrained, "backend_tokenizer", None), pretrained.eos_token
    if backend is None or end is None:
        raise _refused(name, "its tokenizer has no fast implementation or no end-of-text token")
    plain = pretrained(_KNOWN_TOKEN, add_special_tokens=False)["input_ids"]
    whole = pretrained(_KNOWN_TOKEN)["input_ids"]
    tokenizer = Tokenizer(name, backend, str(end))
    if tokenizer.text_vocab_size > vocabulary:
        allowed = (
            f"its tokenizer has {tokenizer.text_vocab_size} ids and its model {vocabulary} rows: "
            "they do not belong together"
        )
        raise _refused(name, allowed)
    return TextEncoder(tokenizer, tuple(whole[: whole.index(plain[0])]))


def fingerprint(name: str) -> str:
    """What tells these weights from others, at no cost of gigabytes: of a folder, the sizes and
    beginnings of its files; a hub name itself."""
    if name == SMOLLM2:
        return WEIGHTS.sha256
    digest = hashlib.sha256()
    for path in sorted(Path(name).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            digest.update(file.read(_BEGINNING))
    return digest.hexdigest() if Path(name).is_dir() else name


def _refused(name: str, allowed: str) -> ConfigError:
    return ConfigError.of([Problem("task.weights", name, allowed)])
