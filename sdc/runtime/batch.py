"""Several prompts answered together, where a program's target can; one after another, where it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from sdc.runtime.sampling import Sampler
from sdc.targets.base import Runner

__all__ = ["Answers", "answer_together"]


@dataclass
class Answers:
    """Token ids that each prompt led to, in the order of the prompts, and how long that took.

    Attributes:
        tokens: End tokens left out.
        prefill_seconds: For all prompts.
        decode_seconds: For all steps after them.
        steps: Tokens that were decoded in those, of all sequences together.
    """

    tokens: list[list[int]]
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    steps: int = 0


@dataclass
class _Sequence:
    """One prompt's answer so far."""

    number: int
    wanted: int
    sampler: Sampler
    made: list[int] = field(default_factory=list)
    ended: bool = False


def answer_together(
    runner: Runner,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampler: Callable[[], Sampler],
    ends: frozenset[int],
    max_seq: int,
) -> Answers:
    """Each prompt's answer: the tokens that it gives alone.

    Args:
        runner: One with ``together`` (see :class:`sdc.targets.fused.together.Together`), or any other.
        prompts: Token ids of each, at least one.
        max_new_tokens: Most tokens of an answer.
        sampler: A fresh sampler for each prompt.
        ends: Tokens that end an answer.
        max_seq: Tokens that a cache holds.
    """
    answers = Answers([[] for _ in prompts])
    most = getattr(runner, "most_together", 0) or 1
    for start in range(0, len(prompts), most):
        wave = prompts[start : start + most]
        group = runner.together(len(wave)) if hasattr(runner, "together") and most > 1 else _Alone(runner)
        going = [
            _Sequence(i, min(max_new_tokens, max_seq - len(prompt) + 1), sampler())
            for i, prompt in enumerate(wave)
        ]
        for sequence, prompt in zip(going, wave, strict=True):
            logits, seconds = _timed(_begin, group, sequence.number, prompt)
            answers.prefill_seconds += seconds
            if sequence.wanted > 0:
                _take(sequence, sequence.sampler(logits), ends)
        for rows in _steps(going):
            numbers, tokens = [s.number for s in rows], [s.made[-1] for s in rows]
            chosen, seconds = _timed(group.following, numbers, tokens, [s.sampler for s in rows])
            answers.decode_seconds += seconds
            answers.steps += len(rows)
            for sequence, token in zip(rows, chosen, strict=True):
                _take(sequence, token, ends)
        for sequence in going:
            answers.tokens[start + sequence.number] = sequence.made
    return answers


class _Alone:
    """One sequence, behind the face of several."""

    def __init__(self, runner: Runner) -> None:
        runner.reset()
        self.sequences = [runner]

    def following(
        self, _numbers: Sequence[int], tokens: Sequence[int], samplers: Sequence[Sampler]
    ) -> list[int]:
        return [samplers[0](self.sequences[0].decode(tokens[0]))]


def _begin(group: Any, number: int, prompt: Sequence[int]) -> NDArray:
    logits: NDArray = group.sequences[number].prefill(prompt)
    return logits


def _steps(sequences: list[_Sequence]) -> Iterator[list[_Sequence]]:
    """Those that go on, until there are none."""
    while rows := [s for s in sequences if not s.ended and len(s.made) < s.wanted]:
        yield rows


def _take(sequence: _Sequence, token: int, ends: frozenset[int]) -> None:
    """The next token of a sequence, or its end."""
    if token in ends:
        sequence.ended = True
    else:
        sequence.made.append(token)


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - began
