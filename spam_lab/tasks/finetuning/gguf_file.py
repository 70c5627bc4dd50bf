"""A GGUF file of a LLaMA as a folder that transformers reads: config, tokenizer and safetensors.

It owns the conversion, written from the format's description: quantised tensors become float32, the
rows of the query and key matrices go back from llama.cpp's order for rotary embeddings to that of
transformers, and the byte-level BPE becomes a tokenizer.json. The folder appears whole or not at
all.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spam_lab.config.fields import ConfigError
from spam_lab.data.errors import DataError
from spam_lab.files import write_json

_CONTROL = 3
"""The type of a token that no text is split into."""

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def require_reader() -> None:
    """Refuse to go on without the package that reads the format.

    Raises:
        ConfigError: with the command that installs it.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(
            "task.weights=smollm2 is a GGUF file, read by the Python package gguf, which is not "
            "here: pip install 'spam_lab[finetuning]', or give task.weights=FOLDER or a hub name"
        )


def convert(source: Path, target: Path) -> None:
    """Write the folder `target` from the file `source`; half a minute for 135M weights.

    Raises:
        ConfigError: the package gguf is not installed.
        DataError: it is not a LLaMA with a byte-level BPE.
    """
    require_reader()
    try:
        reader = _library("gguf").GGUFReader(source)
    except (ValueError, IndexError, OSError) as error:
        raise DataError(f"{source} is no readable GGUF file: {error}") from None
    values = {key: field.contents() for key, field in reader.fields.items()}
    if values.get("general.architecture") != "llama" or (
        values.get("tokenizer.ggml.model"),
        values.get("tokenizer.ggml.pre"),
    ) != ("gpt2", "smollm"):
        raise DataError(f"{source} is not a LLaMA with SmolLM's tokenizer")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        _write_weights(reader, values, folder / "model.safetensors")
        write_json(folder / "config.json", _config(values))
        _write_tokenizer(values, folder)
        os.chmod(folder, 0o755)
        if not target.is_dir():  # another process may have been faster, with the same bytes
            os.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _library(name: str) -> Any:
    """A module of a package that need not be installed, for the type checker as well."""
    return importlib.import_module(name)


def _config(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": values["llama.embedding_length"],
        "intermediate_size": values["llama.feed_forward_length"],
        "num_hidden_layers": values["llama.block_count"],
        "num_attention_heads": values["llama.attention.head_count"],
        "num_key_value_heads": values["llama.attention.head_count_kv"],
        "max_position_embeddings": values["llama.context_length"],
        "rms_norm_eps": values["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": values["llama.rope.freq_base"],
        "vocab_size": values["llama.vocab_size"],
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "pad_token_id": values["tokenizer.ggml.padding_token_id"],
        "tie_word_embeddings": True,
    }


def _write_weights(reader: Any, values: Mapping[str, Any], path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    dequantize = _library("gguf.quants").dequantize
    heads = {
        "attn_q": values["llama.attention.head_count"],
        "attn_k": values["llama.attention.head_count_kv"],
    }
    tensors = {}
    for stored in reader.tensors:
        matrix = torch.from_numpy(dequantize(stored.data, stored.tensor_type).copy())
        parts = stored.name.removesuffix(".weight").split(".")
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.weight"
            if parts[2] in heads:
                matrix = _in_halves(matrix, heads[parts[2]])
        else:
            name = f"{_OUTSIDE[parts[0]]}.weight"
        tensors[name] = matrix.contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def _in_halves(matrix: Any, heads: int) -> Any:
    """Rows of each head from pairs (x0, y0, x1, y1, ...) to halves (x0, x1, ..., y0, y1, ...)."""
    rows, columns = matrix.shape
    pairs = matrix.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _write_tokenizer(values: Mapping[str, Any], folder: Path) -> None:
    """SmolLM's: every digit alone, then GPT-2's byte-level BPE."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = values["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = values["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {
        "bos_token": tokens[values["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[values["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[values["tokenizer.ggml.padding_token_id"]],
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    write_json(folder / "tokenizer_config.json", settings)
