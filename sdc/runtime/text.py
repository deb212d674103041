"""Tokenizer and chat template of a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from sdc.errors import InvalidModelError

__all__ = ["TOKENIZER_FILES", "TextModel", "find_tokenizer"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class TextModel:
    """Text to token ids and back.

    Attributes:
        tokenizer: Hugging Face tokenizer.
        config: ``tokenizer_config.json``, or empty.
        template: The chat template, or "".
    """

    tokenizer: Tokenizer
    config: dict[str, Any]
    template: str

    def encode(self, text: str) -> list[int]:
        """Token ids, no special tokens added (those written in the text are recognised)."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Text without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def chat(self, prompt: str) -> str:
        """The prompt as a user's message in the model's chat template; as it is where there is none.

        Raises:
            InvalidModelError: The template does not render.
        """
        if not self.template:
            return prompt
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        tokens = {k: self._special(k) for k in ("bos_token", "eos_token", "unk_token", "pad_token")}
        messages = [{"role": "user", "content": prompt}]
        try:
            return environment.from_string(self.template).render(
                messages=messages, add_generation_prompt=True, **tokens
            )
        except TemplateError as error:
            raise InvalidModelError(f"the model's chat template does not render: {error}") from error

    @property
    def stops(self) -> frozenset[int]:
        """Ids that end a generation."""
        ends = (self._special("eos_token"), "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>")
        ids = (self.tokenizer.token_to_id(t) for t in ends if t)
        return frozenset(i for i in ids if i is not None)

    def _special(self, key: str) -> str:
        value = self.config.get(key, "")
        return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def find_tokenizer(folder: Path) -> TextModel | None:
    """The tokenizer in a folder, or None.

    Raises:
        InvalidModelError: Its files are damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    settings = folder / "tokenizer_config.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
        config = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    except Exception as error:  # the library raises bare Exception for a damaged file
        raise InvalidModelError(f"{path}: the tokenizer cannot be read ({error})") from error
    template = config.get("chat_template") or ""
    separate = folder / "chat_template.jinja"
    if separate.is_file():
        template = separate.read_text(encoding="utf-8")
    return TextModel(tokenizer, config, template if isinstance(template, str) else "")
