"""Symbolic dimensions: binding them from the shapes of inputs, and evaluating expressions over them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from tvm import relax, tirx

from sdc.errors import SdcError

__all__ = ["bind_shape", "evaluate_prim"]

_BINARY: dict[str, Callable[[int, int], int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "FloorDiv": operator.floordiv,
    "FloorMod": operator.mod,
    "Max": max,
    "Min": min,
}


def evaluate_prim(expr: Any, symbols: dict[Any, int]) -> int:
    """The integer value of a dimension.

    Raises:
        SdcError: A symbol has no value yet, or the expression is of a kind that dimensions do not take.
    """
    if isinstance(expr, int):
        return expr
    if isinstance(expr, tirx.IntImm):
        return int(expr.value)
    if expr in symbols:
        return symbols[expr]
    kind = type(expr).__name__
    if kind in _BINARY:
        return _BINARY[kind](evaluate_prim(expr.a, symbols), evaluate_prim(expr.b, symbols))
    if kind == "Cast":
        return evaluate_prim(expr.value, symbols)
    raise SdcError(f"dimension {expr} has no value here")


def bind_shape(name: str, ty: Any, shape: tuple[int, ...], symbols: dict[Any, int]) -> None:
    """Binds the symbols of a tensor type to a concrete shape, and checks the rest.

    Raises:
        SdcError: The shape does not fit the type.
    """
    if not isinstance(ty, relax.TensorType) or ty.shape is None:
        return
    declared = list(ty.shape.values)
    if len(declared) != len(shape):
        raise SdcError(f"{name} must have rank {len(declared)}, got shape {list(shape)}")
    for axis, (dimension, size) in enumerate(zip(declared, shape, strict=True)):
        if isinstance(dimension, tirx.Var) and dimension not in symbols:
            symbols[dimension] = size
        elif evaluate_prim(dimension, symbols) != size:
            raise SdcError(f"axis {axis} of {name} must be {dimension}, got {size} (shape {list(shape)})")
