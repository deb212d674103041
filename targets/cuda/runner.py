"""Running a decoder on a GPU: greedy decoding leaves everything there but the token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.errors import NumericsError
from sdc.targets.fused.runner import DecoderRunner, Memory
from sdc.targets.fused.signature import Signature

__all__ = ["CudaRunner"]

_NOTHING = (-1, -1)


class CudaRunner(DecoderRunner):
    """See :class:`sdc.targets.base.Runner`; greedy decoding by :meth:`greedy` never copies logits."""

    def __init__(
        self, module: Any, signature: Signature, weights: Mapping[str, NDArray], memory: Memory
    ) -> None:
        super().__init__(module, signature, weights, memory)
        self._held = _NOTHING  # the token that the device holds already, and its position
        self._next = self._machine["greedy"] if "greedy" in signature.launches else None

    def _step(self, token: int) -> int:
        """Launches a token's kernels and waits for eight bytes; token and position stay on the device."""
        if self._next is None:
            return super()._step(token)
        if self._held != (token, self.position):
            self._token.set(int(self._known(np.asarray([token]))[0]))
        made = self._next(self._token.tensor, self._place.tensor, *self._states, *self._weights)
        chosen = int(made.numpy().item())
        if chosen < 0:
            raise NumericsError("logits", "a logit is NaN or infinite")
        self._kept.append(token)
        self._position += 1  # the kernel moved the device's own
        self._held = (chosen, self._position)
        return chosen

    def _call(self, name: str, tokens: Any, count: int) -> NDArray:
        self._held = _NOTHING
        return super()._call(name, tokens, count)
