"""Sequences that decode together: weights are read once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sdc.errors import TargetError
from sdc.targets.base import Chooser
from sdc.targets.fused.runner import check_finite

__all__ = ["Member", "Together", "check_count"]

# Tokens int64 [1, n], and places int64 [2, n]: the position of each and the number of its sequence; gives
# logits [n, vocab].
Step = Callable[[NDArray, NDArray], NDArray]
# As a step, but gives the next token of each, as its chooser takes it, where the logits lie.
Choice = Callable[[NDArray, NDArray, Sequence[Chooser]], list[int]]


def check_count(count: int, most: int) -> None:
    """Whether so many sequences may decode together.

    Raises:
        TargetError: They are too many, or none.
    """
    if not 0 < count <= most:
        raise TargetError(f"{count} sequences cannot decode together, at most {most} can")


class Member(Protocol):
    """One of some sequences; see :class:`sdc.targets.fused.runner.DecoderRunner`."""

    @property
    def position(self) -> int: ...

    def prefill(self, tokens: NDArray | Sequence[int]) -> NDArray: ...

    def resume(self, tokens: NDArray | Sequence[int]) -> NDArray: ...

    def check_next(self, token: int) -> None: ...

    def took(self, token: int) -> None: ...


M = TypeVar("M", bound=Member)


class Together(Generic[M]):
    """Some sequences of one program.

    Args:
        sequences: Each with a cache of its own.
        step: Runs the program for one token of some of them.
        choice: Does so and chooses; without it, choosers see logits in this machine's memory.

    Attributes:
        sequences: A prompt goes into one by ``prefill`` or ``resume``.
    """

    def __init__(self, sequences: Sequence[M], step: Step, choice: Choice | None = None) -> None:
        self.sequences, self.step, self.choice = sequences, step, choice

    def decode(self, numbers: Sequence[int], tokens: Sequence[int]) -> NDArray:
        """Appends one token to each of some sequences; their logits [n, vocab], those of each one alone.

        Args:
            numbers: Which sequences, each at most once.
            tokens: The token of each.

        Raises:
            NumericsError: A logit is NaN or infinite.
            TargetError: A cache is full, a token unknown, or a sequence named twice.
        """
        chosen = self._checked(numbers, tokens)
        logits = self.step(*_arguments(chosen, numbers, tokens))
        check_finite(logits)
        _took(chosen, tokens)
        return logits

    def following(
        self, numbers: Sequence[int], tokens: Sequence[int], choosers: Sequence[Chooser]
    ) -> list[int]:
        """As :meth:`decode`, but gives the next token of each, as its chooser takes it."""
        if self.choice is None:
            rows = self.decode(numbers, tokens)
            return [choose(logits) for choose, logits in zip(choosers, rows, strict=True)]
        chosen = self._checked(numbers, tokens)
        made = self.choice(*_arguments(chosen, numbers, tokens), choosers)
        _took(chosen, tokens)
        return made

    def _checked(self, numbers: Sequence[int], tokens: Sequence[int]) -> list[M]:
        chosen = [self.sequences[number] for number in numbers]
        if len(set(numbers)) != len(tokens) or not chosen:
            raise TargetError(f"tokens for {len(tokens)} different sequences are needed, got {list(numbers)}")
        for sequence, token in zip(chosen, tokens, strict=True):
            sequence.check_next(token)
        return chosen


def _arguments(
    sequences: Sequence[Member], numbers: Sequence[int], tokens: Sequence[int]
) -> tuple[NDArray, NDArray]:
    places = np.array([[s.position for s in sequences], numbers], np.int64)
    return np.array([tokens], np.int64), places


def _took(sequences: Sequence[Member], tokens: Sequence[int]) -> None:
    for sequence, token in zip(sequences, tokens, strict=True):
        sequence.took(token)
