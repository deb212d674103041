"""Weights that arrive as integers and scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.ir.params import Param

__all__ = ["Dequantise"]


@dataclass(frozen=True)
class Dequantise:
    """(integers - zero point) * scale, ONNX's ``DequantizeLinear``.

    Attributes:
        scale: One number, one for each index of ``axis``, or one for each ``block`` indices of ``axis``.
        zero: Like ``scale``; None means 0.
        axis: Not negative.
        block: Indices that share a scale; 0 means one scale for all, or one for each index.
    """

    scale: Param
    zero: Param | None
    axis: int
    block: int

    def __call__(self, array: NDArray) -> NDArray:
        numbers = array.astype(np.float32)
        if self.zero is not None:
            numbers = numbers - self._spread(self.zero, array.shape)
        return numbers * self._spread(self.scale, array.shape)

    def _spread(self, param: Param, shape: tuple[int, ...]) -> NDArray:
        """The scales or zero points in a shape that meets the integers'."""
        value = param.value().astype(np.float32)
        if self.block:
            wide = np.repeat(value, self.block, self.axis)
            return np.take(wide, np.arange(shape[self.axis]), self.axis)
        if value.ndim == 1 and value.size > 1:
            return value.reshape([-1 if axis == self.axis else 1 for axis in range(len(shape))])
        return value.reshape(()) if value.size == 1 else value

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return f"dequantise by {self.scale.name}" + (f", blocks of {self.block}" if self.block else "")
