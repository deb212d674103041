"""Transforms from a layer's integer weights to the order in which the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.ir.bfloat16 import upper_halves

__all__ = ["ByChannel", "PackNibbles", "ShortScales"]


@dataclass(frozen=True)
class PackNibbles:
    """int8 [N, K] of -8..7 -> int32 [N, K / 8]: w + 8, channels 0..3 low and 4..7 high in a word's bytes."""

    def __call__(self, array: NDArray) -> NDArray:
        rows, width = array.shape
        shifted = (array.astype(np.int16) + 8).astype(np.uint8).reshape(rows, width // 8, 2, 4)
        return np.ascontiguousarray(shifted[:, :, 0] | shifted[:, :, 1] << 4).view("<i4")[..., 0]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], shape[1] // 8)

    def describe(self) -> str:
        return "pack eight 4-bit weights a word"


@dataclass(frozen=True)
class ShortScales:
    """float32 that are bfloat16 numbers -> uint16, the upper halves of their bits."""

    def __call__(self, array: NDArray) -> NDArray:
        return upper_halves(array)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return "scales in 16 bits"


@dataclass(frozen=True)
class ByChannel:
    """int8 [N, K] -> int8 [K, N]: the weights of one input channel side by side, for event-driven kernels."""

    def __call__(self, array: NDArray) -> NDArray:
        return np.ascontiguousarray(array.T)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[1], shape[0])

    def describe(self) -> str:
        return "order weights by input channel"
