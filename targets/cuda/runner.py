"""Running a decoder on a GPU: greedy decoding leaves everything there but the token."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.targets.base import Chooser
from sdc.targets.fused.machine import as_array
from sdc.targets.fused.runner import DecoderRunner, Memory, no_number
from sdc.targets.fused.signature import Signature
from sdc.targets.fused.together import Together, check_count

__all__ = ["CudaRunner"]

_NOTHING = (-1, -1)
_BATCH = "batch"  # the function that decodes one token of each of several sequences


class CudaRunner(DecoderRunner):
    """See :class:`sdc.targets.base.Runner`; greedy decoding never copies logits."""

    def __init__(
        self, module: Any, signature: Signature, weights: Mapping[str, NDArray], memory: Memory
    ) -> None:
        super().__init__(module, signature, weights, memory)
        self._held = _NOTHING  # the token that the device holds already, and its position
        self._next = self._machine["greedy"] if "greedy" in signature.launches else None

    @property
    def most_together(self) -> int:
        """Sequences that :meth:`together` takes at most; 0 where the program cannot."""
        return self._signature.chunk if _BATCH in self._signature.launches else 0

    def together(self, count: int) -> Together[CudaRunner]:
        """``count`` empty sequences that decode together, apart from this runner's own.

        Raises:
            TargetError: The program cannot decode so many together, or the device's memory is too small.
        """
        check_count(count, self.most_together)
        caches = self._memory.copies(count, self._signature.states)
        whole, function = [all_of_it for all_of_it, _ in caches], self._machine[_BATCH]

        def step(tokens: NDArray, places: NDArray) -> NDArray:
            given = self._memory.tensor(tokens), self._memory.tensor(places)
            return as_array(function(*given, *whole, *self._weights)).reshape(tokens.size, -1)

        return Together([self._sibling([own[i] for _, own in caches]) for i in range(count)], step)

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
        if self._next is None or choose.temperature > 0:
            return super()._step(token, choose)
        return self.likeliest(token)

    def likeliest(self, token: int) -> int:
        """Appends a token; the likeliest next one. The program must have ``greedy``.

        Launches a token's kernels and waits for eight bytes; token and position stay on the device.

        Raises:
            NumericsError: A logit is NaN or infinite.
        """
        if self._held != (token, self.position):
            self._token.set(int(self._known(np.asarray([token]))[0]))
        assert self._next is not None
        made = self._next(self._token.tensor, self._place.tensor, *self._states, *self._weights)
        chosen = int(made.numpy().item())
        if chosen < 0:
            raise no_number()
        self._kept.append(token)
        self._position += 1  # the kernel moved the device's own
        self._held = (chosen, self._position)
        return chosen

    def _call(self, name: str, tokens: Any, count: int) -> NDArray:
        self._held = _NOTHING
        return super()._call(name, tokens, count)
