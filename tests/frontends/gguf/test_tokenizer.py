"""The tokenizer of a GGUF file."""

from __future__ import annotations

import json

import pytest
from helpers.tiny_gguf import write_tiny_gguf
from tokenizers import Tokenizer

from sdc.errors import InvalidModelError, ModelError
from sdc.frontends.gguf import open_gguf, save_tokenizer, to_onnx, tokenizer


def test_it_merges_splits_and_decodes(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    built = tokenizer(tmp_path / "m.gguf")
    assert built is not None
    encoded = built.encode("the then\n<|user|>", add_special_tokens=False)
    assert encoded.tokens == ["the", "Ġ", "the", "n", "Ċ", "<|user|>"]
    assert built.decode(encoded.ids, skip_special_tokens=False) == "the then\n<|user|>"


def test_a_digit_stands_alone_before_anything_else_is_cut(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    built = tokenizer(tmp_path / "m.gguf")
    assert built is not None
    cut = [piece for piece, _ in built.pre_tokenizer.pre_tokenize_str("a\n\n12")]
    assert cut == ["a", "ĊĊ", "1", "2"]


def test_the_first_token_is_added_where_the_file_asks_for_it(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", metadata={"tokenizer.ggml.add_bos_token": True})
    built = tokenizer(tmp_path / "m.gguf")
    assert built is not None
    assert built.encode("the").tokens == ["<|end|>", "the"]
    assert built.encode("the", add_special_tokens=False).tokens == ["the"]


def test_the_files_beside_the_model(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    model = open_gguf(tmp_path / "m.gguf")
    paths = save_tokenizer(model, tmp_path)
    assert Tokenizer.from_file(str(paths[0])).encode("then").tokens == ["the", "n"]
    config = json.loads(paths[1].read_text())
    assert config["eos_token"] == "<|end|>"
    assert config["chat_template"].startswith("{% for m in messages %}")


def test_a_file_without_a_tokenizer_has_none(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", tokens=False)
    assert tokenizer(tmp_path / "m.gguf") is None
    path = to_onnx(tmp_path / "m.gguf", tmp_path / "out" / "m.onnx")
    assert not (path.parent / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("model", "t5", ModelError, 'tokenizer of kind "t5"'),
        ("pre", "tekken", ModelError, 'pre-tokenizer "tekken" is not supported'),
        ("merges", ["x yy"], InvalidModelError, "tokens and merges are damaged"),
        ("bos_token_id", 999, InvalidModelError, "bos token 999 is not one of the 40 tokens"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, key, value, error, message) -> None:
    key = f"tokenizer.ggml.{key}"
    write_tiny_gguf(tmp_path / "m.gguf", metadata={key: value})
    with pytest.raises(error, match=message):
        save_tokenizer(open_gguf(tmp_path / "m.gguf"), tmp_path)
