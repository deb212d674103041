"""Some tokens by one call of the compiled program, with the arguments of that call."""

from __future__ import annotations

import time
from collections.abc import Collection
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.targets.base import Chooser
from sdc.targets.fused.machine import tensor_of, zeros

__all__ = ["CHOOSE", "FOLLOWING", "NO_NUMBER", "Choice", "Draws", "Following"]

FOLLOWING = "following"
"""The name of the compiled function."""

CHOOSE = "choose"
"""The name of the one that chooses a token from logits."""

NO_NUMBER = -1
"""What is chosen where a logit is NaN or infinite."""

# What a reader of the answer waits for at once: a blink, and few tokens more than would be waited for anyway.
_SECONDS = 0.03
_MOST = 8  # beyond, there is next to nothing left to save


class Draws:
    """Uniform numbers for some choices, drawn ahead: on the way out, those that were not used go back.

    Args:
        choose: Whose they are; it needs none at temperature 0.
        count: How many.

    Attributes:
        numbers: Float64 [count].
        used: How many choices were taken; to be counted by whoever takes them.
    """

    def __init__(self, choose: Chooser, count: int) -> None:
        self._random = choose.random if choose.temperature > 0 else None
        self._state = self._random.bit_generator.state if self._random else {}
        self.numbers = self._random.random(count) if self._random else np.zeros(count)
        self.used = 0

    def __enter__(self) -> Draws:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._random and self.used < self.numbers.size:
            self._random.bit_generator.state = self._state
            self._random.random(self.used)


class Choice:
    """A token from logits, by the compiled function.

    Args:
        function: The one named :data:`CHOOSE`.
    """

    def __init__(self, function: Any, vocab: int) -> None:
        self._function = function
        self._logits, self._settings, self._made = (
            zeros([vocab], "float32"),
            np.zeros(3),
            np.zeros(1, np.int64),
        )
        self._tensors = [tensor_of(each) for each in (self._logits, self._settings, self._made)]

    def __call__(self, logits: NDArray, choose: Chooser) -> int:
        """The token, or NO_NUMBER; logits [vocab] may lie off the alignment that the function wants."""
        self._logits[:] = logits
        drawn = choose.random.random() if choose.temperature > 0 else 0.0
        self._settings[:] = choose.temperature, choose.top_p, drawn
        self._function(*self._tensors)
        return int(self._made[0])


class Following:
    """See :mod:`sdc.targets.cpu.region.following`.

    Args:
        function: The compiled one.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._settings, self._made = np.zeros((_MOST, 3)), np.zeros(_MOST, np.int64)
        self._count = np.zeros(1, np.int32)
        self._ends: tuple[Collection[int] | None, Any] = (None, None)
        self._tensors = [tensor_of(each) for each in (self._made, self._count)]
        self._settings_tensor = tensor_of(self._settings)
        self.ahead = 1
        """Tokens that are worth running by one call, by the time that those of the last one took."""

    def __call__(
        self, memory: tuple[Any, ...], choose: Chooser, draws: Draws, ends: Collection[int]
    ) -> list[int]:
        """Tokens chosen, at least one and as many as there are draws: fewer after an end or NO_NUMBER.

        Args:
            memory: The region's arguments: the token to run is the first, its position the second. Both move.
            choose: The distribution.
            draws: At most :attr:`ahead`.
            ends: Tokens after which to stop.
        """
        if ends is not self._ends[0]:
            self._ends = ends, tensor_of(np.array([NO_NUMBER, *ends], np.int64))
        count = draws.numbers.size
        self._count[0] = count
        self._settings[:count, :2] = choose.temperature, choose.top_p
        self._settings[:count, 2] = draws.numbers
        start = time.perf_counter()
        self._function(*memory, self._settings_tensor, self._ends[1], *self._tensors)
        made: list[int] = self._made[: self._count[0]].tolist()
        self.ahead = max(1, min(_MOST, int(_SECONDS * len(made) / (time.perf_counter() - start))))
        return made
