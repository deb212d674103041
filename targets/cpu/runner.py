"""Running a decoder whose functions are parallel regions: nothing is allocated for a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from sdc.targets.cpu.kernels.cache import unpack_keys
from sdc.targets.fused.packed import State
from sdc.targets.fused.runner import DecoderRunner, HostMemory, Signature, thread_count
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
        cache, self._states = _states(signature.states)
        self._regions = {}
        for name in signature.regions:
            function = module.get_function(name, query_imports=True)
            self._regions[name] = _Region(function, signature, name, data, cache)

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
        self._logits_tensor = tvm.runtime.tensor(np.zeros(signature.vocab, np.float32))
        self._logits = np.from_dlpack(self._logits_tensor)
        self._held = (
            tvm.runtime.from_dlpack(data),
            cache,
            tvm.runtime.tensor(np.zeros(arena + threads * area, np.uint8)),
            tvm.runtime.tensor(np.array([threads], np.int32)),
            self._logits_tensor,
        )

    def __call__(self, tokens: Any, position: Any) -> NDArray:
        """The last token's logits [1, vocab]."""
        self._function(tokens, position, *self._held)
        return self._logits[None].copy()


def _states(states: Sequence[State]) -> tuple[Any, list[Any]]:
    """Zeroed states in one piece of memory, and each one as a tensor in it."""
    starts = offsets([(s.shape, s.dtype) for s in states])
    sizes = [int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in states]
    whole = tvm.runtime.tensor(np.zeros(starts[-1] + sizes[-1] if states else 0, np.uint8))
    memory = np.from_dlpack(whole)
    parts = zip(states, starts, sizes, strict=True)
    views = [memory[at : at + size].view(s.dtype).reshape(s.shape) for s, at, size in parts]
    return whole, [tvm.runtime.from_dlpack(view) for view in views]
