"""Rebuilds a Hugging Face tokenizer from a GGUF file's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from sdc.errors import ModelError
from sdc.frontends.gguf.reader import GgufModel

__all__ = ["save_tokenizer", "tokenizer"]

CONTROL, USER_DEFINED = 3, 4  # llama_token_type, llama.h of llama.cpp

# The pre-tokenizers' regular expressions, as in llama.cpp's llama-vocab.cpp.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def tokenizer(model: GgufModel) -> Tokenizer | None:
    """The file's tokenizer, or None where it has none.

    Raises:
        ModelError: It is of a kind that is not supported.
    """
    tokens = model.field("tokenizer.ggml.tokens")
    if tokens is None:
        return None
    kind = model.field("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ModelError(
            f'{model.path}: tokenizer of kind "{kind}" is not supported (supported: gpt2, byte-level BPE); '
            "put the model's tokenizer.json beside an ONNX export instead"
        )
    merges = [tuple(m.split(" ", 1)) for m in model.field("tokenizer.ggml.merges", [])]
    result = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    result.pre_tokenizer = _pre_tokenizer(model)
    result.decoder = decoders.ByteLevel()
    kinds = list(zip(tokens, model.field("tokenizer.ggml.token_type") or [], strict=False))
    special = [AddedToken(t, special=True, normalized=False) for t, k in kinds if k == CONTROL]
    plain = [AddedToken(t, special=False, normalized=False) for t, k in kinds if k == USER_DEFINED]
    result.add_special_tokens(special)
    result.add_tokens(plain)
    return result


def _pre_tokenizer(model: GgufModel) -> Any:
    name = model.field("tokenizer.ggml.pre", "default")
    if name in ("smollm", "starcoder", "refact", "command-r"):
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if name in ("gpt-2", "default"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    patterns = {"llama-bpe": _LLAMA3, "llama3": _LLAMA3, "qwen2": _QWEN2}
    if name not in patterns:
        raise ModelError(
            f'{model.path}: pre-tokenizer "{name}" is not supported (supported: default, gpt-2, smollm, '
            "starcoder, refact, command-r, llama-bpe, qwen2)"
        )
    split = pre_tokenizers.Split(Regex(patterns[name]), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def save_tokenizer(model: GgufModel, folder: Path) -> list[Path]:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json`` as Hugging Face models have them.

    Returns:
        The files written; none where the GGUF file has no tokenizer.
    """
    built = tokenizer(model)
    if built is None:
        return []
    config: dict[str, Any] = {"model_max_length": model.facts.context}
    tokens = model.field("tokenizer.ggml.tokens")
    for name in ("bos", "eos", "unknown", "padding"):
        index = model.field(f"tokenizer.ggml.{name}_token_id")
        if index is not None:
            key = {"unknown": "unk", "padding": "pad"}.get(name, name)
            config[f"{key}_token"] = tokens[int(index)]
    config["add_bos_token"] = bool(model.field("tokenizer.ggml.add_bos_token", False))
    template = model.field("tokenizer.chat_template")
    if template:
        config["chat_template"] = template
    built.save(str(folder / "tokenizer.json"))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    return [folder / "tokenizer.json", settings]
