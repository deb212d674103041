"""``sdc run``: in a file of its own, as it needs no compiler."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sdc.errors import ConfigError
from sdc.runtime import Program
from sdc.runtime.sampling import Sampler
from sdc.runtime.text import Message

__all__ = ["answer_prompts", "chat_with_program", "read_prompts", "run_program"]


def run_program(
    path: Path, prompt: str, max_new_tokens: int, sampler: Sampler, *, raw: bool, json: bool
) -> None:
    """``sdc run``."""
    program = Program.load(path)
    listen = _ignore if json else _to_stdout
    made = program.answer(program.prompt(prompt, chat=not raw), max_new_tokens, sampler, listen)
    if json:
        from sdc.cli.tables import print_json

        print_json(made.to_json())
    else:
        print()


def answer_prompts(
    path: Path,
    prompts: Sequence[str],
    max_new_tokens: int,
    sampler: Callable[[], Sampler],
    *,
    raw: bool,
    json: bool,
) -> None:
    """``sdc run`` with several prompts, which decode together where the target can; a sampler for each."""
    program = Program.load(path)
    ids = [program.prompt(prompt, chat=not raw) for prompt in prompts]
    answers = program.answers(ids, max_new_tokens, sampler)
    texts = [program.text(tokens) for tokens in answers.tokens]
    if json:
        from sdc.cli.tables import print_json

        both = zip(texts, answers.tokens, ids, strict=True)
        rows = [{"text": text, "tokens": made, "prompt_tokens": len(given)} for text, made, given in both]
        rate = answers.steps / answers.decode_seconds if answers.steps else None
        print_json({"answers": rows, "decode_tokens_per_second": rate})
        return
    for prompt, text in zip(prompts, texts, strict=True):
        print(f"> {prompt}\n{text}\n")


def chat_with_program(
    path: Path, lines: Iterable[str], max_new_tokens: int, sampler: Callable[[], Sampler]
) -> None:
    """``sdc run --chat``: a line is a message; the cache keeps the conversation between them."""
    program = Program.load(path)
    messages: list[Message] = []
    for line in lines:
        messages.append({"role": "user", "content": line.rstrip("\n")})
        made = program.answer(program.conversation(messages), max_new_tokens, sampler(), _to_stdout)
        messages.append({"role": "assistant", "content": made.text})
        print(f"\n[{made.prompt_tokens} tokens, {made.reused_tokens} of them in the cache]", flush=True)


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that are not empty.

    Raises:
        ConfigError: It cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompts {path} cannot be read: {error}") from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise ConfigError(f"{path} holds no prompt; write one a line")
    return prompts


def _ignore(_piece: str) -> None:
    """Text that nobody reads as it comes."""


def _to_stdout(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
