"""Running a decoder whose functions are parallel regions: nothing is allocated for a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.targets.cpu.layout import unpack_keys
from sdc.targets.fused.machine import tensor_of, zeros
from sdc.targets.fused.runner import DecoderRunner, HostMemory, thread_count
from sdc.targets.fused.signature import Signature, State
from sdc.targets.weights import offsets

__all__ = ["CpuRunner"]


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
            self._regions[name] = _Region(function, signature, name, data, self._cache)

    def _new_states(self) -> list[Any]:
        self._cache, states = _states(self._signature.states)
        return states

    def _call(self, name: str, tokens: Any, count: int) -> NDArray:
        region = self._regions.get(name)
        if region is None:
            return super()._call(name, tokens, count)
        logits = region(tokens, self._place.tensor)
        self._move(self._position + count)
        return logits


class _Region:
    """A function that is one parallel region, with the memory that it works in."""

    def __init__(self, function: Any, signature: Signature, name: str, data: NDArray, cache: Any) -> None:
        arena, area = signature.regions[name]
        threads = thread_count()
        self._function = function
        self._logits = zeros([signature.vocab], "float32")
        self._held = (
            tensor_of(data),
            cache,
            tensor_of(zeros([arena + threads * area], "uint8")),
            tensor_of(np.array([threads], np.int32)),
            tensor_of(self._logits),
        )

    def __call__(self, tokens: Any, position: Any) -> NDArray:
        """The last token's logits [1, vocab]."""
        self._function(tokens, position, *self._held)
        return self._logits[None].copy()


def _states(states: Sequence[State]) -> tuple[Any, list[Any]]:
    """Zeroed states in one piece of memory, and each one as a tensor in it."""
    starts = offsets([(s.shape, s.dtype) for s in states])
    sizes = [int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in states]
    memory = zeros([starts[-1] + sizes[-1] if states else 0], "uint8")
    parts = zip(states, starts, sizes, strict=True)
    views = [memory[at : at + size].view(s.dtype).reshape(s.shape) for s, at, size in parts]
    return tensor_of(memory), [tensor_of(view) for view in views]
