"""Running a decoder whose functions are parallel regions: nothing is allocated for a token."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.targets.base import Chooser
from sdc.targets.cpu.following import CHOOSE, FOLLOWING, NO_NUMBER, Choice, Draws, Following
from sdc.targets.cpu.layout import sequence_bytes, unpack_keys
from sdc.targets.fused.machine import tensor_of, zeros
from sdc.targets.fused.runner import DecoderRunner, HostMemory, no_number, thread_count
from sdc.targets.fused.signature import Signature, State
from sdc.targets.fused.together import Together, check_count
from sdc.targets.weights import offsets

__all__ = ["CpuRunner"]


_BATCH = "batch"  # the function that decodes one token of each of several sequences


class CpuRunner(DecoderRunner):
    """See :class:`sdc.targets.base.Runner`.

    Args:
        module: The loaded program.
        signature: How it is called.
        weights: Mapped weights by name.
        data: All of them as bytes, which regions read at fixed places.
    """

    def __init__(
        self, module: Any, signature: Signature, weights: Mapping[str, NDArray], data: NDArray
    ) -> None:
        super().__init__(module, signature, weights, HostMemory(), unpack_keys)
        self._regions = {}
        for name in signature.regions:
            function = module.get_function(name, query_imports=True)
            self._regions[name] = _Region(function, signature, name, data)
        self._following = self._choice = None  # programs compiled long ago have neither
        if module.implements_function(FOLLOWING, query_imports=True):
            self._following = Following(module.get_function(FOLLOWING, query_imports=True))
            self._choice = Choice(module.get_function(CHOOSE, query_imports=True), signature.vocab)

    @property
    def most_together(self) -> int:
        """Sequences that :meth:`together` takes at most; 0 where the program cannot."""
        return self._signature.chunk if _BATCH in self._regions else 0

    def together(self, count: int) -> Together[CpuRunner]:
        """``count`` empty sequences that decode together, apart from this runner's own.

        Raises:
            TargetError: The program cannot decode so many together.
        """
        check_count(count, self.most_together)
        stride = sequence_bytes(self._signature.states)
        memory = zeros([count * stride], "uint8")
        pieces = [memory[i * stride : (i + 1) * stride] for i in range(count)]
        cache, region = tensor_of(memory), self._regions[_BATCH]

        def step(tokens: NDArray, places: NDArray) -> NDArray:
            return region(tensor_of(tokens), tensor_of(places), cache, tokens.size)

        def choice(tokens: NDArray, places: NDArray, choosers: Sequence[Chooser]) -> list[int]:
            assert self._choice is not None
            made = list(map(self._choice, step(tokens, places), choosers))
            if NO_NUMBER in made:
                raise no_number()
            return made

        sequences = [self._sibling(piece) for piece in pieces]
        return Together(sequences, step, None if self._choice is None else choice)

    def _sibling(self, memory: NDArray) -> CpuRunner:
        """The same program with a sequence of its own."""
        other = copy(self)
        other._place, other._position, other._kept = self._memory.cell(()), 0, []
        other._cache, other._states = _states(self._signature.states, memory)
        return other

    def _new_states(self) -> list[Any]:
        states = self._signature.states
        self._cache, views = _states(states, zeros([sequence_bytes(states)], "uint8"))
        return views

    def following(
        self, token: int, choose: Chooser, most: int | None = None, ends: Collection[int] = ()
    ) -> Iterator[int]:
        """See :class:`sdc.targets.fused.runner.DecoderRunner`; runs a few tokens ahead of the reader."""
        if self._following is None:
            yield from super().following(token, choose, most, ends)
            return
        left = self._left(most)
        if left > 0:
            self.check_next(token)
        while left > 0:
            with Draws(choose, min(left, self._following.ahead)) as draws:
                made = self._some(token, choose, draws, ends)
                left -= len(made)
                for chosen in made:
                    self.took(token)
                    draws.used += 1
                    if chosen == NO_NUMBER:
                        raise no_number()
                    token = chosen
                    yield token
                    if token in ends:
                        return

    def _some(self, token: int, choose: Chooser, draws: Draws, ends: Collection[int]) -> list[int]:
        """Tokens after one; the position stays, as whoever asks for them may take fewer."""
        assert self._following is not None
        self._token.set(token)
        memory = self._regions["decode"].arguments(self._token.tensor, self._place.tensor, self._cache, 1)
        try:
            return self._following(memory, choose, draws, ends)
        finally:
            self._place.set(self._position)

    def _call(self, name: str, tokens: Any, count: int) -> NDArray:
        region = self._regions.get(name)
        if region is None:
            return super()._call(name, tokens, count)
        logits = region(tokens, self._place.tensor, self._cache, 1)
        self._move(self._position + count)
        return logits


class _Region:
    """A function that is one parallel region, with the memory that it works in."""

    def __init__(self, function: Any, signature: Signature, name: str, data: NDArray) -> None:
        arena, area = signature.regions[name]
        threads = thread_count()
        self._function = function
        self._vocab = signature.vocab
        self._weights = tensor_of(data)
        self._work = (
            tensor_of(zeros([arena + threads * area], "uint8")),
            tensor_of(np.array([threads], np.int32)),
        )
        self._results: dict[int, tuple[NDArray, Any]] = {}  # arrays and their tensors, by rows

    def __call__(self, tokens: Any, position: Any, cache: Any, rows: int) -> NDArray:
        """Logits [rows, vocab]: of the last token, or of every sequence's."""
        self._function(*self.arguments(tokens, position, cache, rows))
        return self._results[rows][0].copy()

    def arguments(self, tokens: Any, position: Any, cache: Any, rows: int) -> tuple[Any, ...]:
        """What the function takes."""
        if rows not in self._results:
            made = zeros([rows, self._vocab], "float32")
            self._results[rows] = (made, tensor_of(made.reshape(-1)))
        _, tensor = self._results[rows]
        return (tokens, position, self._weights, cache, *self._work, tensor)


def _states(states: Sequence[State], memory: NDArray) -> tuple[Any, list[Any]]:
    """A piece of memory as a tensor, and each state as a tensor in it."""
    starts = offsets([(s.shape, s.dtype) for s in states])
    sizes = [int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in states]
    parts = zip(states, starts, sizes, strict=True)
    views = [memory[at : at + size].view(s.dtype).reshape(s.shape) for s, at, size in parts]
    return tensor_of(memory), [tensor_of(view) for view in views]
