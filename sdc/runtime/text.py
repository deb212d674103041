"""Tokenizer, chat template and end tokens of a program, from Hugging Face files in its directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from sdc.errors import InvalidModelError

__all__ = ["Message", "TextCodec", "copy_tokenizer"]

Message = Mapping[str, str]
"""One of a conversation: its ``role`` (system, user or assistant) and its ``content``."""

_TOKENIZER = "tokenizer.json"
_FILES = (_TOKENIZER, "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def copy_tokenizer(source: Path, out: Path) -> bool:
    """Copies the tokenizer's files from one directory to another; False where there is no tokenizer."""
    if not (source / _TOKENIZER).is_file():
        return False
    for name in _FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    return True


class TextCodec:
    """Turns text into token ids and back.

    Args:
        folder: Holds ``tokenizer.json`` and, where the model has them, ``tokenizer_config.json``,
            ``chat_template.jinja`` and ``generation_config.json``.

    Raises:
        InvalidModelError: A file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
        except Exception as error:  # the library raises nothing narrower
            raise InvalidModelError(f"{folder / _TOKENIZER}: damaged ({error})") from error
        self._config = _read_json(folder / "tokenizer_config.json")
        self._template = self._chat_template()
        self.end_tokens = self._ends()

    @staticmethod
    def find(folder: Path) -> TextCodec | None:
        """The codec of a directory, None where it holds no tokenizer."""
        return TextCodec(folder) if (folder / _TOKENIZER).is_file() else None

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids. ``special`` adds what the tokenizer puts around a text (such as a beginning-of-text)."""
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Pieces of text as tokens arrive; a character of several tokens comes when it is whole.

        Joined, the pieces are :meth:`decode` of all tokens.
        """
        seen: list[int] = []
        told = ""
        for token in tokens:
            seen.append(token)
            text = self.decode(seen)
            if not text.endswith(_REPLACEMENT) and text.startswith(told):
                yield text[len(told) :]
                told = text
        rest = self.decode(seen)[len(told) :]
        if rest:
            yield rest

    def chat(self, messages: str | Sequence[Message]) -> list[int]:
        """Token ids of a user's message, or of a conversation, in the model's chat format.

        Where it has none, those of the plain text, a message a line.

        Raises:
            InvalidModelError: The chat template fails.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if self._template is None:
            return self.encode("\n".join(message["content"] for message in messages), special=True)
        named = {k: _text(self._config.get(k)) for k in ("bos_token", "eos_token", "unk_token", "pad_token")}
        try:
            text = self._template.render(messages=messages, add_generation_prompt=True, **named)
        except TemplateError as error:
            raise InvalidModelError(f"{self._folder}: the chat template fails: {error}") from error
        return self.encode(text)

    def _chat_template(self) -> Any:
        path = self._folder / "chat_template.jinja"
        source = path.read_text(encoding="utf-8") if path.is_file() else self._config.get("chat_template")
        if isinstance(source, list):  # several named ones
            source = next((t["template"] for t in source if t.get("name") == "default"), None)
        if not source:
            return None
        # The sandbox matters: the template comes with the model, from anywhere.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        try:
            return environment.from_string(source)
        except TemplateError as error:
            raise InvalidModelError(f"{self._folder}: the chat template is damaged: {error}") from error

    def _ends(self) -> frozenset[int]:
        ids = _read_json(self._folder / "generation_config.json").get("eos_token_id", [])
        found = set(ids if isinstance(ids, list) else [ids])
        token = _text(self._config.get("eos_token"))
        number = self._tokenizer.token_to_id(token) if token else None
        return frozenset(found | ({number} if number is not None else set()))


def _text(token: Any) -> str:
    """A special token is a string, or a mapping with its content."""
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token or "")


def _raise(message: str) -> None:
    raise TemplateError(message)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidModelError(f"{path}: damaged ({error})") from error
    if not isinstance(content, dict):
        raise InvalidModelError(f"{path}: must hold a JSON object")
    return content
