"""``sdc run``: in a file of its own, as it needs no compiler."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from sdc.runtime import Program
from sdc.runtime.sampling import Sampler
from sdc.runtime.text import Message

__all__ = ["chat_with_program", "run_program"]


def run_program(
    path: Path,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    *,
    raw: bool,
    json: bool,
) -> None:
    """``sdc run``."""
    program = Program.load(path)
    sampler = Sampler(temperature, top_p, seed)
    listen = _ignore if json else _to_stdout
    made = program.answer(program.prompt(prompt, chat=not raw), max_new_tokens, sampler, listen)
    if json:
        from sdc.cli.tables import print_json

        print_json(made.to_json())
    else:
        print()


def chat_with_program(
    path: Path, lines: Iterable[str], max_new_tokens: int, temperature: float, top_p: float, seed: int
) -> None:
    """``sdc run --chat``: a line is a message; the cache keeps the conversation between them."""
    program = Program.load(path)
    messages: list[Message] = []
    for line in lines:
        messages.append({"role": "user", "content": line.rstrip("\n")})
        sampler = Sampler(temperature, top_p, seed)
        made = program.answer(program.conversation(messages), max_new_tokens, sampler, _to_stdout)
        messages.append({"role": "assistant", "content": made.text})
        print(f"\n[{made.prompt_tokens} tokens, {made.reused_tokens} of them in the cache]", flush=True)


def _ignore(_piece: str) -> None:
    """Text that nobody reads as it comes."""


def _to_stdout(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
