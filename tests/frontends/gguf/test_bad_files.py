"""Damaged and unsupported GGUF files: one clear error, and nothing left behind."""

from __future__ import annotations

import random

import pytest
from helpers.tiny_gguf import FFN, HIDDEN, write_tiny_gguf

from sdc.errors import InvalidModelError, ModelError, SdcError
from sdc.frontends.gguf import open_gguf, to_onnx


@pytest.mark.parametrize("keep", [0, 3, 100, 2000, -40])
def test_a_truncated_file_is_refused_and_leaves_nothing(tmp_path, keep) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    whole = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(whole[:keep])
    with pytest.raises(InvalidModelError, match=r"m\.gguf"):
        to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_a_file_with_wrong_bytes_gives_an_error_of_ours_or_converts(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    whole = (tmp_path / "m.gguf").read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.randrange(3500)] = rng.randrange(256)
        (tmp_path / "d.gguf").write_bytes(damaged)
        try:
            to_onnx(tmp_path / "d.gguf", tmp_path / "d.onnx")
        except SdcError:
            refused += 1
    assert refused > 50


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(InvalidModelError, match=r"none\.gguf: there is no such file"):
        open_gguf(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"architecture": "mamba"}, ModelError, 'architecture "mamba" is not supported'),
        ({"extra": {"blk.0.attn_q_norm.weight": (16,)}}, ModelError, r"blk\.0\.attn_q_norm\.weight"),
        ({"without": ["blk.1.ffn_up.weight"]}, InvalidModelError, r'"blk\.1\.ffn_up\.weight" is missing'),
        ({"without": ["token_embd.weight"]}, InvalidModelError, r'"token_embd\.weight" is missing'),
        (
            {"extra": {"blk.1.ffn_up.weight": (FFN, HIDDEN - 32)}},
            InvalidModelError,
            r"is \[96, 32\], but the metadata ask for \[96, 64\]",
        ),
        ({"rope_dim": 32}, InvalidModelError, "at most a head's width"),
    ],
)
def test_what_cannot_be_read_right_is_refused(tmp_path, options, error, message) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", **options)
    with pytest.raises(error, match=message):
        to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.rope.scaling.type", "yarn", 'rotary scaling of type "yarn"'),
        ("llama.expert_count", 8, "mixtures of experts"),
        ("llama.attention.value_length", 8, "values of another width"),
        ("llama.attention.head_count_kv", [2, 1], "differs by layer"),
        ("llama.attention.head_count_kv", 3, "multiple of head_count_kv"),
        ("llama.context_length", 1 << 31, "context_length is in"),
        ("llama.block_count", "two", "'two', not a number"),
    ],
)
def test_metadata_that_are_not_understood_are_named(tmp_path, key, value, message) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", metadata={key: value})
    with pytest.raises(ModelError, match=message):
        to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_an_older_model_is_not_left_beside_newer_weights(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    path = to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx")
    before = path.read_bytes()
    write_tiny_gguf(tmp_path / "m.gguf", tied=False)
    to_onnx(tmp_path / "m.gguf", path)
    assert path.read_bytes() != before
