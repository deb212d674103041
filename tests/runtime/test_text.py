"""Tokenizer files: streaming whole characters, chat templates in a sandbox, end tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.tiny_source import tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sdc.errors import InvalidModelError
from sdc.runtime import TextCodec, copy_tokenizer


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> TextCodec:
    """One token a byte."""
    folder = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    return TextCodec(folder)


def with_config(folder: Path, **config: object) -> TextCodec:
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return TextCodec(folder)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_streamed_pieces_join_to_the_text(codec, text):
    assert "".join(codec.stream(codec.encode(text))) == text


def test_a_character_of_four_bytes_comes_whole(codec):
    pieces = [p for p in codec.stream(codec.encode("a🧠b")) if p]
    assert pieces == ["a", "🧠", "b"]


def test_half_a_character_at_the_end_is_not_lost(codec):
    assert "".join(codec.stream(codec.encode("é")[:1])) == "\N{REPLACEMENT CHARACTER}"


def test_chat_template(tmp_path):
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<{{ bos_token }}>{% endif %}"
    )
    made = with_config(tmp_path, chat_template=template, bos_token={"content": "b"}, eos_token="~")
    assert made.decode(made.chat("hi")) == "<user>hi<b>"
    assert made.chat([{"role": "user", "content": "hi"}]) == made.chat("hi")
    assert made.end_tokens == {made.encode("~")[0]}


def test_without_a_template_the_text_goes_in_as_it_is(tmp_path):
    made = with_config(tmp_path)
    assert made.chat("hi") == made.encode("hi")
    assert made.end_tokens == frozenset()


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{% if %}",
        "{{ raise_exception('no system') }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_that_fails_or_breaks_out_is_an_error(tmp_path, template):
    with pytest.raises(InvalidModelError, match="chat template"):
        with_config(tmp_path, chat_template=template).chat("hi")


def test_end_tokens_of_the_generation_config_count_too(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 5]}')
    assert with_config(tmp_path, eos_token="~").end_tokens == {3, 5, 94}


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidModelError, match=r"tokenizer\.json"):
        TextCodec(tmp_path)
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(InvalidModelError, match="JSON object"):
        with_config(tmp_path)


def test_copying_takes_what_is_there(tmp_path):
    assert not copy_tokenizer(tmp_path, tmp_path)
    with_config(tmp_path)
    (tmp_path / "out").mkdir()
    assert copy_tokenizer(tmp_path, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
