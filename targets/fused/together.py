"""Sequences that decode together: weights are read once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sdc.errors import TargetError
from sdc.targets.fused.runner import check_finite

__all__ = ["Member", "Together", "check_count"]

# Tokens int64 [1, n], and places int64 [2, n]: the position of each and the number of its sequence; gives
# logits [n, vocab].
Step = Callable[[NDArray, NDArray], NDArray]


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

    Attributes:
        sequences: A prompt goes into one by ``prefill`` or ``resume``.
    """

    def __init__(self, sequences: Sequence[M], step: Step) -> None:
        self.sequences, self.step = sequences, step

    def decode(self, numbers: Sequence[int], tokens: Sequence[int]) -> NDArray:
        """Appends one token to each of some sequences; their logits [n, vocab], those of each one alone.

        Args:
            numbers: Which sequences, each at most once.
            tokens: The token of each.

        Raises:
            NumericsError: A logit is NaN or infinite.
            TargetError: A cache is full, a token unknown, or a sequence named twice.
        """
        chosen = [self.sequences[number] for number in numbers]
        if len(set(numbers)) != len(tokens) or not chosen:
            raise TargetError(f"tokens for {len(tokens)} different sequences are needed, got {list(numbers)}")
        for sequence, token in zip(chosen, tokens, strict=True):
            sequence.check_next(token)
        places = np.array([[s.position for s in chosen], numbers], np.int64)
        logits = self.step(np.array([tokens], np.int64), places)
        check_finite(logits)
        for sequence, token in zip(chosen, tokens, strict=True):
            sequence.took(token)
        return logits
