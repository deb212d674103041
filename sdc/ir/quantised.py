"""Weights that arrive as integers and scales."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from sdc.ir.params import Cast, Concat, Param, Transpose

__all__ = ["Dequantise", "Grid", "arrives_as_integers", "narrowed", "stored_grid"]


@dataclass(frozen=True)
class Dequantise:
    """(integers - zero point) * scale, ONNX's ``DequantizeLinear``.

    Attributes:
        scale: One number, one for each index of ``axis``, or one for each ``block`` indices of ``axis``.
        zero: Like ``scale``; None means 0.
        axis: Not negative.
        block: Indices that share a scale; 0 means one scale for all, or one for each index.
        kind: Type of the stored integers, as NumPy and ml_dtypes name it: ``int4``, ``uint8``.
    """

    scale: Param
    zero: Param | None
    axis: int
    block: int
    kind: str = "int8"

    def __call__(self, array: NDArray) -> NDArray:
        numbers = self.centred(array.astype(np.float32))
        numbers *= self._spread(self.scale, array.shape)
        return numbers

    def centred(self, numbers: NDArray) -> NDArray:
        """Integers (as float32) minus zero points."""
        return numbers if self.zero is None else numbers - self._spread(self.zero, numbers.shape)

    def limits(self) -> tuple[int, int]:
        """The least and the largest integer minus zero point that can be stored. Reads the zero points."""
        info = ml_dtypes.iinfo(self.kind)
        zero = np.zeros(1) if self.zero is None else self.zero.value()
        return int(info.min) - int(zero.max()), int(info.max) - int(zero.min())

    def _spread(self, param: Param, shape: tuple[int, ...]) -> NDArray:
        """The scales or zero points in a shape that meets the integers'."""
        value = param.value().astype(np.float32)
        if self.block:
            wide = np.repeat(value, self.block, self.axis)
            return wide[(*[slice(None)] * self.axis, slice(shape[self.axis]))]  # the last block may be padded
        if value.ndim == 1 and value.size > 1:
            return value.reshape([-1 if axis == self.axis else 1 for axis in range(len(shape))])
        return value.reshape(()) if value.size == 1 else value

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return f"dequantise by {self.scale.name}" + (f", blocks of {self.block}" if self.block else "")


@dataclass(frozen=True)
class Grid:
    """A weight as integers times scales, just as they are stored.

    Attributes:
        integers: [N, K] int8.
        scales: [N, groups] float32.
        bits: Width that holds the integers: 2, 4 or 8.
        group: Columns that share a scale; 0 for a whole row.
    """

    integers: Param
    scales: Param
    bits: int
    group: int


def arrives_as_integers(param: Param) -> bool:
    """Whether a weight, or a part of it, is stored as integers and scales."""
    parts = param.source.parts if isinstance(param.source, Concat) else ()
    return any(isinstance(s, Dequantise) for s in param.transforms) or any(map(arrives_as_integers, parts))


def stored_grid(param: Param) -> Grid | None:
    """The stored integers and scales of a weight [N, K].

    None where it is not made of any, or not of them alone: a transform came after, zero points make integers
    beyond -127 to 127, or blocks run along the rows or do not divide K. Reads zero points, and integers whose
    type allows more.
    """
    if isinstance(param.source, Concat) and not param.transforms:
        return _joined(param.name, [stored_grid(part) for part in param.source.parts])
    steps = param.transforms
    at = next((i for i, step in enumerate(steps) if isinstance(step, Dequantise)), None)
    if at is None or len(param.shape) != 2 or not all(isinstance(s, Cast) for s in steps[:at]):
        return None
    if not all(isinstance(s, Transpose) for s in steps[at + 1 :]):
        return None
    step = steps[at]
    assert isinstance(step, Dequantise)
    turned = bool(len(steps[at + 1 :]) % 2)
    shape = param.shape[::-1] if turned else param.shape
    integers = _Integers(replace(param, shape=shape, transforms=steps[:at]), step, turned)
    bits = _bits(step, integers) if _along_rows(step, turned, param.shape[1]) else None
    if bits is None:
        return None
    groups = param.shape[1] // step.block if step.block else 1
    return Grid(
        Param(f"{param.name}.q", param.shape, "int8", integers),
        Param(
            f"{param.name}.scale", (param.shape[0], groups), "float32", _Scales(step, turned, param.shape[0])
        ),
        bits,
        step.block if groups > 1 else 0,
    )


def narrowed(grid: Grid, bits: int) -> Grid | None:
    """The grid as one of ``bits`` bits where its integers are small enough, whatever type holds them.

    Reads the integers: ternary ones often come in 8 bits or 4.
    """
    numbers = grid.integers.value()
    half = 1 << (bits - 1)
    return replace(grid, bits=bits) if numbers.min() >= -half and numbers.max() < half else None


def _bits(step: Dequantise, integers: _Integers) -> int | None:
    """2, 4 or 8, or None where -127 to 127 does not hold every integer."""
    low, high = step.limits()
    if low < -127 or high > 127:  # the type allows more; what is stored may not use it
        numbers = integers.centred()
        low, high = int(numbers.min()), int(numbers.max())
    fitting = (bits for bits in (2, 4) if -(1 << (bits - 1)) <= low and high < 1 << (bits - 1))
    return next(fitting, 8 if low >= -127 and high <= 127 else None)


def _along_rows(step: Dequantise, turned: bool, width: int) -> bool:
    """Whether each row [K] has scales of its own: one, or one for each block of columns."""
    axis = 1 - step.axis if turned else step.axis
    if step.block:
        return axis == 1 and width % step.block == 0
    return step.scale.shape in ((), (1,)) or (axis == 0 and len(step.scale.shape) == 1)


def _joined(name: str, parts: list[Grid | None]) -> Grid | None:
    """The rows of several grids, if all have groups of one size."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({part.group for part in known}) > 1:
        return None
    return Grid(
        Concat.param(f"{name}.q", [part.integers for part in known]),
        Concat.param(f"{name}.scale", [part.scales for part in known]),
        max(part.bits for part in known),
        known[0].group,
    )


@dataclass(frozen=True)
class _Integers:
    """Stored integers minus zero points, [N, K] int8."""

    stored: Param
    step: Dequantise
    turned: bool

    def load(self) -> NDArray:
        numbers = self.centred().astype(np.int8)
        return np.ascontiguousarray(numbers.T) if self.turned else numbers

    def centred(self) -> NDArray:
        """As stored, minus zero points, float32."""
        return self.step.centred(self.stored.value())


@dataclass(frozen=True)
class _Scales:
    """Stored scales, [N, groups] float32."""

    step: Dequantise
    turned: bool
    rows: int

    def load(self) -> NDArray:
        scales = self.step.scale.value().astype(np.float32)
        if not self.step.block:
            return np.broadcast_to(scales.reshape(-1, 1), (self.rows, 1))
        return np.ascontiguousarray(scales.T) if self.turned else scales
