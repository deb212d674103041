"""Small words for writing TIR on any target: vector loads, stores, casts with Python's own control flow.

A kernel generator runs Python while TVM's IR builder records statements, so lanes, unrolling and variants
are plain Python values and ``if``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

__all__ = [
    "broadcast",
    "const",
    "declare",
    "if_",
    "lane_type",
    "load",
    "otherwise",
    "prim_func",
    "select",
    "store",
    "symbol",
    "then",
    "vector_range",
]

Expr = Any
Buffer = Any


def prim_func(name: str, body: Callable[[], None]) -> tirx.PrimFunc:
    """Records ``body`` (which declares its buffers with :func:`declare`) as a private PrimFunc."""
    with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        body()
    return builder.get()


def symbol(name: str) -> Expr:
    """A symbolic int64 length."""
    return tirx.Var(name, "int64")


def declare(name: str, shape: Sequence[Any], dtype: str) -> Buffer:
    """The next buffer argument; a shape may hold :func:`symbol` lengths."""
    handle = T.arg(name, T.handle())
    return T.match_buffer(handle, tuple(shape), dtype, align=64)


def lane_type(dtype: str, lanes: int) -> str:
    """``int32`` and 16 give ``int32x16``; one lane gives the scalar type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def const(value: float, dtype: str, lanes: int = 1) -> Expr:
    """A constant, repeated over the lanes."""
    scalar = tirx.const(value, dtype)
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def broadcast(value: Expr, lanes: int) -> Expr:
    """A scalar in every lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def vector_range(base: Any, lanes: int) -> Expr:
    """The indices base, base + 1, ... of one vector access."""
    if isinstance(base, int):
        base = tirx.const(base, "int32")
    return base if lanes == 1 else tirx.Ramp(base, tirx.const(1, base.ty.dtype), lanes)


def load(buffer: Buffer, index: Sequence[Any], lanes: int = 1) -> Expr:
    """``lanes`` neighbours along the last axis."""
    *lead, last = index
    return buffer[(*lead, vector_range(last, lanes))]


def store(buffer: Buffer, index: Sequence[Any], value: Expr, lanes: int = 1) -> None:
    """Writes ``lanes`` neighbours along the last axis."""
    *lead, last = index
    T.buffer_store(buffer, value, [*lead, vector_range(last, lanes)])


def if_(condition: Expr) -> AbstractContextManager[Any]:
    """Opens a conditional; use with :func:`then` and :func:`otherwise`."""
    return T.If(condition)


def then() -> AbstractContextManager[Any]:
    """The branch that runs where the condition holds."""
    return T.Then()


def otherwise() -> AbstractContextManager[Any]:
    """The other branch."""
    return T.Else()


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Lane by lane choice; both values are computed (bind loads with :func:`let` first)."""
    return tirx.Select(condition, yes, no)
