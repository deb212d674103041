"""What the emulator's expressions are in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINARY", "CALLS", "dot4", "reinterpret"]


def reinterpret(value: NDArray, dtype: str) -> NDArray:
    element, _, lanes = dtype.partition("x")
    data = np.ascontiguousarray(value).view(element)
    if value.ndim == 1:
        return data
    return data if int(lanes or 1) > 1 else data[:, 0]


def dot4(a: NDArray, b: NDArray, c: NDArray, kind: Any) -> NDArray:
    left = np.ascontiguousarray(a.astype(np.int32)).view(kind).reshape(-1, 4).astype(np.int32)
    right = np.ascontiguousarray(b.astype(np.int32)).view(np.int8).reshape(-1, 4).astype(np.int32)
    return c + (left * right).sum(1, dtype=np.int32)


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "FloorDiv": np.floor_divide,
    "FloorMod": np.mod,
    "Max": np.fmax,  # CUDA's fmaxf gives the other operand where one is NaN
    "Min": np.fmin,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "LShift": np.left_shift,
    "RShift": np.right_shift,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}
CALLS: dict[str, Callable[..., Any]] = {
    "tirx.nearbyint": np.rint,
    "prim.ceil": np.ceil,
    "tirx.fabs": np.abs,
    "tirx.sqrt": np.sqrt,
    "tirx.shift_left": np.left_shift,
    "tirx.shift_right": np.right_shift,
    "tirx.bitwise_and": np.bitwise_and,
    "tirx.bitwise_or": np.bitwise_or,
    "tirx.bitwise_xor": np.bitwise_xor,
}
