"""A tiny exported language model with a tokenizer of one character a token."""

from __future__ import annotations

import shutil
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

__all__ = ["MODEL", "tiny_source", "tiny_tokenizer"]

MODEL = Path(__file__).parent.parent / "models" / "llama_dynamo_op23.onnx"
CHARACTERS = [*map(chr, range(32, 127)), "\n"]  # 96, the model's vocabulary


def tiny_source(folder: Path, tokenizer: bool = True) -> Path:
    """Copies the model into ``folder``; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return Path(shutil.copy(MODEL, folder / "tiny.onnx"))


def tiny_tokenizer() -> Tokenizer:
    """One token a printable ASCII character."""
    vocabulary = {c: i for i, c in enumerate(CHARACTERS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    made.decoder = decoders.Fuse()
    return made
