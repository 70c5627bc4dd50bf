"""The embedded corpus: what is shipped, how it is split, its tokenizers, and how it is rebuilt."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam_lab.config.fields import ConfigError
from spam_lab.data import embedded
from spam_lab.data.embedded import rebuild
from spam_lab.data.tokenizer import SHIPPED, check_vocabulary, load_tokenizer


def test_shipped_files_are_those_the_readme_names() -> None:
    readme = (embedded.FOLDER / "README.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"\| `([^`]+)` \| `([0-9a-f]{64})` \|", readme))
    files = [embedded.DOCUMENTS, *(embedded.tokenizer_file(name) for name in SHIPPED)]
    assert {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files} == named


def test_split_is_by_document_and_covers_every_decade() -> None:
    train, validation = embedded.documents("train"), embedded.documents("validation")
    assert len(train) == 112
    assert len(validation) == 13
    train_ids, validation_ids = {d.id for d in train}, {d.id for d in validation}
    assert not train_ids & validation_ids
    # An address and its written version stay together.
    assert not {i.rpartition("-")[0] for i in train_ids} & {
        i.rpartition("-")[0] for i in validation_ids
    }
    assert {i[:3] for i in validation_ids} == {i[:3] for i in train_ids | validation_ids}
    sizes = [sum(len(d.text) for d in documents) for documents in (train, validation)]
    assert 0.06 < sizes[1] / sum(sizes) < 0.10


def test_text_is_clean() -> None:
    for document in embedded.documents("train"):
        assert "[Laughter]" not in document.text
        assert "\n\n" not in document.text
        assert "  " not in document.text
        assert len(document.text) > 1000
        assert document.title.endswith(document.id[:4])


@pytest.mark.parametrize(("name", "size"), [("bpe_1000", 1000), ("bpe_4000", 4000)])
def test_shipped_tokenizer_has_exactly_its_ids(name: str, size: int) -> None:
    tokenizer = load_tokenizer(name)
    assert (tokenizer.vocab_size, tokenizer.text_vocab_size, tokenizer.eos_id) == (size, size, 0)
    check_vocabulary(tokenizer, size)
    with pytest.raises(ConfigError, match=rf"data\.tokenizer={name}.*vocab_size={size - 1}"):
        check_vocabulary(tokenizer, size - 1)


@given(st.lists(st.text(), max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back(texts: list[str]) -> None:
    tokenizer = load_tokenizer("bpe_1000")
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts


def test_text_cannot_spell_the_end_of_text() -> None:
    tokenizer = load_tokenizer("bpe_1000")
    (ids,) = tokenizer.encode_batch(["before <|endoftext|> after"])
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == "before <|endoftext|> after"


def test_real_text_is_compressed() -> None:
    text = embedded.documents("validation")[0].text
    lengths = [len(load_tokenizer(name).encode_batch([text])[0]) for name in SHIPPED]
    assert 2.5 < len(text) / lengths[0] < len(text) / lengths[1] < 5


def test_unreachable_tokenizer_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(ConfigError, match=r"data\.tokenizer=t5.*HF_HOME.*bpe_4000"):
        load_tokenizer("t5")


def test_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.tokenizer=.*cannot read a tokenizer"):
        load_tokenizer(str(tmp_path))


def test_tokenizer_from_a_local_folder_with_sentinels_on_top(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(embedded.tokenizer_file("bpe_1000")))
    backend.add_special_tokens([f"<extra_id_{number}>" for number in range(100)])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(
        tmp_path
    )
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.vocab_size, tokenizer.text_vocab_size, tokenizer.eos_id) == (1100, 1000, 0)
    check_vocabulary(tokenizer, 1000)  # as T5's 32100 ids and the paper's 32000 rows
    text = "a literal <extra_id_3> in a page"
    (ids,) = tokenizer.encode_batch([text])
    assert max(ids) < 1000
    assert ids == load_tokenizer("bpe_1000").encode_batch([text])[0]


def test_rebuild_from_a_few_speeches(tmp_path: Path) -> None:
    speeches, target = tmp_path / "speeches", tmp_path / "target"
    speeches.mkdir()
    target.mkdir()
    words = [f"word{number} of the union" for number in range(200)]
    for year in range(1908, 1932):
        text = f"[ As delivered in person ]\n\nMy  fellow\tcitizens: [Laughter] {year}\n\n\n" + (
            "\n\n".join(words[year % 7 :])
        )
        (speeches / f"{year}-Nobody-1.txt").write_text(text, encoding="utf-8")
    (speeches / "notes.txt").write_text("not a speech", encoding="utf-8")

    found = rebuild.read_speeches(speeches)
    assert [d.id for d in found] == [f"{year}-Nobody-1" for year in range(1913, 1932)]
    assert found[0].title == "State of the Union, Nobody, 1913"
    assert found[0].text.startswith("My fellow citizens: 1913\nword")

    written = rebuild.rebuild(speeches, target, (300, 310))
    first = [path.read_bytes() for path in written]
    assert [path.name for path in written] == [
        "documents.jsonl.xz",
        "tokenizer_bpe_300.json",
        "tokenizer_bpe_310.json",
    ]
    assert [p.read_bytes() for p in rebuild.rebuild(speeches, target, (300, 310))] == first
    with pytest.raises(ValueError, match="not 100000"):
        rebuild.train_tokenizer(["too few words"], 100_000)
    with pytest.raises(FileNotFoundError, match="no speech since 1913"):
        rebuild.read_speeches(target)
    assert rebuild.main([]) == 2
