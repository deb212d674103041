"""Small words for writing TIR: vector loads, stores, loops and casts with Python's own control flow.

A kernel generator runs Python while TVM's IR builder records statements, so lanes, unrolling and variants
are plain Python values and ``if``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

__all__ = [
    "broadcast",
    "const",
    "declare",
    "fit",
    "build",
    "if_",
    "lane_type",
    "let",
    "load",
    "local",
    "loop",
    "otherwise",
    "prim_func",
    "reduce_add",
    "reduce_smax",
    "scratch",
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


def local(size: int, dtype: str) -> Buffer:
    """A small array of one thread: on the stack, and in registers where LLVM can follow the indices.

    TVM puts arrays of less than 1024 bytes on the stack, and only those of scope ``global``; others come from
    its workspace pool, at the price of a call.
    """
    return T.alloc_buffer((size,), dtype, scope="global")


def scratch(shape: Sequence[Any], dtype: str) -> Buffer:
    """A work array, of any size."""
    return T.alloc_buffer(tuple(shape), dtype, scope="global", align=64)


def loop(extent: Any, *, parallel: bool = False) -> AbstractContextManager[Expr]:
    """A loop over 0 .. extent - 1, across threads where ``parallel``."""
    return T.parallel(0, extent) if parallel else T.serial(0, extent)


def if_(condition: Expr) -> AbstractContextManager[Any]:
    """Opens a conditional; use with :func:`then` and :func:`otherwise`."""
    return T.If(condition)


def then() -> AbstractContextManager[Any]:
    """The branch that runs where the condition holds."""
    return T.Then()


def otherwise() -> AbstractContextManager[Any]:
    """The other branch."""
    return T.Else()


def fit(size: int, lanes: int) -> int:
    """The widest vector, at most ``lanes``, that divides ``size`` evenly (lanes is a power of two)."""
    while size % lanes:
        lanes //= 2
    return lanes


def let(value: Expr) -> Expr:
    """Names a value, so that it is computed once.

    TVM's simplifier substitutes pure values into each other, and a chain of them grows exponentially. It
    leaves alone what is read from memory, so all but indices pass through an array that LLVM turns into a
    register.
    """
    dtype = value.ty.dtype
    if dtype.lanes == 1 and str(dtype).startswith("int"):
        return T.bind(value)
    element = str(dtype).split("x")[0]
    held = local(dtype.lanes, element)
    store(held, (0,), value, dtype.lanes)
    return T.bind(load(held, (0,), dtype.lanes))


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Lane by lane choice; both values are computed (bind loads with :func:`let` first)."""
    return tirx.Select(condition, yes, no)


def reduce_add(value: Expr) -> Expr:
    """The sum of an int32 vector's lanes."""
    return _reduce("llvm.vector.reduce.add", value)


def reduce_smax(value: Expr) -> Expr:
    """The largest lane of an int32 vector."""
    return _reduce("llvm.vector.reduce.smax", value)


def _reduce(intrinsic: str, value: Expr) -> Expr:
    if value.ty.dtype.lanes == 1:
        return value
    return tirx.call_llvm_pure_intrin("int32", intrinsic, value)


def build(functions: dict[str, tirx.PrimFunc], target: tvm.target.Target) -> tvm.runtime.Module:
    """Compiles kernels on their own, callable by name (tests and measurements)."""
    module = tvm.IRModule({k: f.with_attr("global_symbol", k) for k, f in functions.items()})
    return tvm.tirx.build(module, target=target)
