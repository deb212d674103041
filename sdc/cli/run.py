"""``sdc run``: in a file of its own, as it needs no compiler."""

from __future__ import annotations

import sys
from pathlib import Path

from sdc.runtime import Program
from sdc.runtime.sampling import Sampler

__all__ = ["run_program"]


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


def _ignore(_piece: str) -> None:
    """Text that nobody reads as it comes."""


def _to_stdout(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
