"""Running a decoder on a GPU: choosing tokens leaves everything there but the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.ir.drawing import inverse_temperature
from sdc.targets.base import Chooser
from sdc.targets.cuda.cuts import WORKER
from sdc.targets.fused.machine import as_array
from sdc.targets.fused.runner import DecoderRunner, Memory, no_number
from sdc.targets.fused.signature import Signature
from sdc.targets.fused.together import Together, check_count

__all__ = ["CudaRunner", "Group", "settings_of"]

_NOTHING = (-1, -1)
_LIKELIEST = (0.0, 2.0**-60, 0.0)  # no temperature; the first of the likeliest tokens has mass enough
_BATCH = "batch"  # the function that decodes one token of each of several sequences
_DRAW = "draw"  # the one that chooses tokens from the logits that another has left


def settings_of(choosers: Sequence[Chooser]) -> NDArray:
    """What ``draw`` has to know of each row, [n, 3] float64; takes a random number of each chooser."""
    rows = [
        (inverse_temperature(c.temperature), c.top_p, c.random.random()) if c.temperature > 0 else _LIKELIEST
        for c in choosers
    ]
    return np.array(rows, np.float64)


class CudaRunner(DecoderRunner):
    """See :class:`sdc.targets.base.Runner`; :meth:`following` never copies logits."""

    def __init__(
        self, module: Any, signature: Signature, weights: Mapping[str, NDArray], memory: Memory
    ) -> None:
        super().__init__(module, signature, weights, memory)
        self._held = _NOTHING  # the token that the device holds already, and its position
        self._next = self._machine["greedy"] if "greedy" in signature.launches else None
        self._settings = memory.zeros((1, 3), "float64")
        self._worker = [w for name, w in zip(signature.weights, self._weights, strict=True) if name == WORKER]

    @property
    def most_together(self) -> int:
        """Sequences that :meth:`together` takes at most; 0 where the program cannot."""
        return self._signature.chunk if _BATCH in self._signature.launches else 0

    @property
    def can_draw(self) -> bool:
        """Whether tokens are drawn on the device."""
        return _DRAW in self._signature.launches

    def together(self, count: int) -> Together[CudaRunner]:
        """``count`` empty sequences that decode together, apart from this runner's own.

        Raises:
            TargetError: The program cannot decode so many together, or the device's memory is too small.
        """
        group = self.group(count)

        def choice(tokens: NDArray, places: NDArray, choosers: Sequence[Chooser]) -> list[int]:
            return group.draw(tokens, places, settings_of(choosers))

        return Together(group.sequences, group.step, choice if self.can_draw else None)

    def group(self, count: int) -> Group:
        """The sequences of :meth:`together`."""
        check_count(count, self.most_together)
        caches = self._memory.copies(count, self._signature.states)
        sequences = [self._sibling([own[i] for _, own in caches]) for i in range(count)]
        return Group(self, sequences, [all_of_it for all_of_it, _ in caches])

    def _sibling(self, states: list[Any]) -> CudaRunner:
        """The same program with a sequence of its own.

        It does without ``greedy``, which may be a CUDA graph: that works on the first caller's tensors alone.
        """
        other = copy(self)
        other._next = None
        other._token, other._place = self._memory.cell((1, 1)), self._memory.cell(())
        other._position, other._kept, other._held, other._states = 0, [], _NOTHING, states
        return other

    def _step(self, token: int, choose: Chooser) -> int:
        if self.can_draw and choose.temperature > 0:
            return self.drawn(token, settings_of([choose]))
        if self._next is None or choose.temperature > 0:
            return super()._step(token, choose)
        return self.likeliest(token)

    def likeliest(self, token: int) -> int:
        """Appends a token; the likeliest next one. The program must have ``greedy``.

        Launches a token's kernels and waits for eight bytes; token and position stay on the device.

        Raises:
            NumericsError: A logit is NaN or infinite.
        """
        self._give(token)
        assert self._next is not None
        made = self._next(self._token.tensor, self._place.tensor, *self._states, *self._weights)
        return self._chosen(token, made)

    def drawn(self, token: int, settings: NDArray) -> int:
        """As :meth:`likeliest`, by settings [1, 3] of :func:`settings_of`. The program must have ``draw``."""
        self._give(token)
        self._settings.copyfrom(settings)
        given = self._token.tensor, self._place.tensor
        logits = self._functions["decode"](*given, *self._states, *self._weights)
        return self._chosen(token, self.draw(logits, self._settings, *given))

    def draw(self, logits: Any, settings: Any, token: Any, position: Any) -> Any:
        """Writes tokens [n, 1] by logits [1, n, width], all on the device; gives ``token``."""
        return self._machine[_DRAW](logits, settings, token, position, *self._worker)

    def _give(self, token: int) -> None:
        """Puts a token where the device reads it, unless it is there."""
        if self._held != (token, self.position):
            self._token.set(int(self._known(np.asarray([token]))[0]))
        self._held = _NOTHING

    def _chosen(self, token: int, made: Any) -> int:
        """Notes a token as appended, and the one that the device has chosen after it."""
        chosen = int(made.numpy().item())
        if chosen < 0:
            self._move(self.position)  # the device's own went on
            raise no_number()
        self._kept.append(token)
        self._position += 1
        self._held = (chosen, self._position)
        return chosen

    def _call(self, name: str, tokens: Any, count: int) -> NDArray:
        self._held = _NOTHING
        return super()._call(name, tokens, count)


class Group:
    """Sequences of one program that decode together.

    Args:
        owner: Of the program.
        sequences: Each with its part of the caches.
        caches: Of all sequences.
    """

    def __init__(self, owner: CudaRunner, sequences: list[CudaRunner], caches: list[Any]) -> None:
        self.sequences = sequences
        self._owner, self._caches, self._memory = owner, caches, owner._memory
        self._aside = self._memory.cell(())  # draw moves a position on; those of a group come from the host

    def step(self, tokens: NDArray, places: NDArray) -> NDArray:
        """See :data:`sdc.targets.fused.together.Step`."""
        return as_array(self._launch(tokens, places)).reshape(tokens.size, -1)

    def draw(self, tokens: NDArray, places: NDArray, settings: NDArray) -> list[int]:
        """The next token of each, chosen on the device by :func:`settings_of`.

        Raises:
            NumericsError: A logit is NaN or infinite.
        """
        cells = self._memory.tensor(np.zeros((tokens.size, 1), np.int64))
        logits = self._launch(tokens, places)
        made = self._owner.draw(logits, self._memory.tensor(settings), cells, self._aside.tensor).numpy()
        if made.min() < 0:
            raise no_number()
        return [int(token) for token in made[:, 0]]

    def _launch(self, tokens: NDArray, places: NDArray) -> Any:
        given = self._memory.tensor(tokens), self._memory.tensor(places)
        return self._owner._machine[_BATCH](*given, *self._caches, *self._owner._weights)
