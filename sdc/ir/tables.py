"""Look-up tables (embeddings) whose rows lie on an 8-bit grid, so that targets can store bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sdc.ir.params import Param

__all__ = ["ByteRows", "byte_rows"]

_TOP = np.float32(127)


@dataclass(frozen=True)
class ByteRows:
    """Rounds each row of a table [R, C] to a multiple, within -127..127, of max|row| / 127.

    A row is looked up, never multiplied, so its error meets no weight: at most max|row| / 254 an element.
    """

    def __call__(self, array: NDArray) -> NDArray:
        integers, scale = _split(array)
        return integers.astype(np.float32) * scale

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return "rows of int8, a scale each"


def byte_rows(param: Param) -> tuple[Param, Param] | None:
    """Integers ``name.rows`` [R, C] int8 and scales ``name.row_scales`` [R, 1] float32 of such a table.

    Their product in float32 is the table, bit for bit. None for any other parameter.
    """
    if not param.transforms or not isinstance(param.transforms[-1], ByteRows):
        return None
    exact = replace(param, transforms=param.transforms[:-1])
    return (
        exact.then(_Integers(), name=f"{param.name}.rows", dtype="int8"),
        exact.then(_Scales(), name=f"{param.name}.row_scales"),
    )


def _split(array: NDArray) -> tuple[NDArray, NDArray]:
    array = array.astype(np.float32, copy=False)
    scale = np.abs(array).max(1, keepdims=True, initial=0.0) / _TOP
    scale = np.where(scale > 0, scale, np.float32(1))
    return np.clip(np.rint(array / scale), -_TOP, _TOP).astype(np.int8), scale


@dataclass(frozen=True)
class _Integers:
    def __call__(self, array: NDArray) -> NDArray:
        return _split(array)[0]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def describe(self) -> str:
        return "integers of its rows"


@dataclass(frozen=True)
class _Scales:
    def __call__(self, array: NDArray) -> NDArray:
        return _split(array)[1]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], 1)

    def describe(self) -> str:
        return "scales of its rows"
