"""Rebuilds a Hugging Face tokenizer from a GGUF file's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from sdc.errors import InvalidModelError, ModelError
from sdc.frontends.gguf.reader import GgufModel, open_gguf

__all__ = ["save_tokenizer", "tokenizer"]

CONTROL, USER_DEFINED = 3, 4  # llama_token_type, llama.h of llama.cpp

# How text is cut before merging, by the file's name for it, as in llama.cpp's llama-vocab.cpp.
GPT2 = ("default", "gpt-2", "mpt", "olmo", "jais")
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"llama-bpe": _LLAMA3, "llama3": _LLAMA3, "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")}
WHOLE_WORDS = ("llama-bpe", "llama3")  # a word that is a token is not merged from its parts


def tokenizer(source: str | Path | GgufModel) -> Tokenizer | None:
    """The tokenizer of a GGUF file, or None where it has none.

    ``encode`` puts the beginning-of-text token in front if the file asks for it, unless called with
    ``add_special_tokens=False``.

    Raises:
        ModelError: It is of a kind that is not supported.
        InvalidModelError: The file is damaged.
    """
    model = source if isinstance(source, GgufModel) else open_gguf(source)
    tokens = model.field("tokenizer.ggml.tokens")
    if tokens is None:
        return None
    kind = model.field("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ModelError(
            f'{model.path}: tokenizer of kind "{kind}" is not supported (supported: gpt2, byte-level BPE); '
            "put the model's tokenizer.json beside an ONNX export instead"
        )
    result = Tokenizer(_bpe(model, tokens))
    result.pre_tokenizer = _pre_tokenizer(model)
    result.decoder = decoders.ByteLevel()
    kinds = list(zip(tokens, model.field("tokenizer.ggml.token_type", []), strict=False))
    special = [AddedToken(t, special=True, normalized=False) for t, k in kinds if k == CONTROL]
    plain = [AddedToken(t, special=False, normalized=False) for t, k in kinds if k == USER_DEFINED]
    result.add_special_tokens(special)
    result.add_tokens(plain)
    first = _special(model, "bos")
    if first is not None and model.field("tokenizer.ggml.add_bos_token", False):
        pieces = [(first, tokens.index(first))]
        result.post_processor = processors.TemplateProcessing(single=f"{first} $A", special_tokens=pieces)
    return result


def _bpe(model: GgufModel, tokens: list[str]) -> models.BPE:
    merges = [tuple(m.split(" ", 1)) for m in model.field("tokenizer.ggml.merges", [])]
    whole_words = model.field("tokenizer.ggml.pre") in WHOLE_WORDS
    try:
        return models.BPE({t: i for i, t in enumerate(tokens)}, merges, ignore_merges=whole_words)
    except Exception as error:  # the library raises nothing narrower
        raise InvalidModelError(
            f"{model.path}: the tokenizer's tokens and merges are damaged ({error})"
        ) from error


def _special(model: GgufModel, name: str) -> str | None:
    """The text of the token that the file names as bos, eos, unknown or padding."""
    index, tokens = model.field(f"tokenizer.ggml.{name}_token_id"), model.field("tokenizer.ggml.tokens")
    if index is None:
        return None
    if not isinstance(index, int) or not 0 <= index < len(tokens):
        raise InvalidModelError(
            f"{model.path}: {name} token {index!r} is not one of the {len(tokens)} tokens"
        )
    return str(tokens[index])


def _pre_tokenizer(model: GgufModel) -> Any:
    name = model.field("tokenizer.ggml.pre", "default")
    if name in DIGITS_APART:
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if name in GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name not in PATTERNS:
        raise ModelError(
            f'{model.path}: pre-tokenizer "{name}" is not supported '
            f"(supported: {', '.join((*GPT2, *DIGITS_APART, *PATTERNS))})"
        )
    split = pre_tokenizers.Split(Regex(PATTERNS[name]), behavior="isolated")
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
    for key, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = _special(model, name)
        if token is not None:
            config[f"{key}_token"] = token
    config["add_bos_token"] = bool(model.field("tokenizer.ggml.add_bos_token", False))
    template = model.field("tokenizer.chat_template")
    if template:
        config["chat_template"] = template
    built.save(str(folder / "tokenizer.json"))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    return [folder / "tokenizer.json", settings]
