"""Recording a kernel as a task: a piece of its parallel loop, as a function on plain pointers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from sdc.targets.fused import emit

__all__ = [
    "LEADING",
    "STACK_BYTES",
    "Task",
    "array_bytes",
    "as_task",
    "declare",
    "once",
    "plain_function",
    "prim_func",
    "recording",
    "symbol",
]

# TVM puts an array on the stack below this size (kMaxStackAlloca, tvm/runtime/device_api.h).
STACK_BYTES = 1024
_ALIGNMENT = 64

LEADING = 3
"""Parameters of a task before its kernel's own."""


@dataclass(frozen=True)
class Task:
    """A kernel as one thread of a region runs it: a piece of its parallel loop, on plain pointers.

    Parameters of ``function``: first and last + 1 of the loop; whether the thread begins a kernel with it
    (:func:`once`); ``arguments`` in their order, then a pointer for every offset in ``work``.

    Attributes:
        count: Length of the parallel loop, in terms of the symbols; 1 where there is none.
        arguments: Shapes of the buffers, and the symbols, in the order of the parameters.
        work: Where the work arrays lie in a thread's work area.
        scratch: Bytes of the work area.
    """

    function: tirx.PrimFunc
    count: Any
    arguments: tuple[tuple[Any, ...] | tirx.Var, ...]
    work: tuple[int, ...]
    scratch: int


@dataclass
class _Recording:
    """What a task's kernel has declared so far."""

    bound: int
    first: Any
    end: Any
    fresh: Any
    count: Any = 1
    arguments: list[Any] = field(default_factory=list)
    pointers: list[tuple[Any, Any]] = field(default_factory=list)
    work: list[int] = field(default_factory=list)
    work_pointers: list[Any] = field(default_factory=list)
    scratch: int = 0

    def pointed(self, name: str, shape: Sequence[Any], dtype: str) -> Any:
        """A parameter that points to a buffer; the buffer is declared when all parameters are known."""
        pointer = T.arg(name, T.handle(dtype))
        buffer = tirx.decl_buffer(tuple(shape), dtype, name, data=pointer)
        self.pointers.append((buffer, pointer))
        return buffer

    def reserve(self, shape: Sequence[Any], dtype: str) -> Any:
        """A work array that does not fit on the stack: a piece of the work area, as one more parameter."""
        size = array_bytes(shape, dtype, self.bound)
        self.work.append(self.scratch)
        self.scratch += -(-size // _ALIGNMENT) * _ALIGNMENT
        pointer = tirx.Var("work", T.handle(dtype).ty)
        buffer = tirx.decl_buffer(tuple(shape), dtype, "work", data=pointer)
        self.pointers.append((buffer, pointer))
        self.work_pointers.append(pointer)
        return buffer


def array_bytes(shape: Sequence[Any], dtype: str, bound: int) -> int:
    """Bytes of an array whose symbolic lengths are at most ``bound``."""
    size = tvm.DataType(dtype).bits // 8
    for extent in shape:
        size *= extent if isinstance(extent, int) else bound
    return size


_current: ContextVar[_Recording | None] = ContextVar("recording", default=None)


@dataclass
class _Request:
    """Asks :func:`prim_func` for a task."""

    bound: int
    task: Task | None = None


_request: ContextVar[_Request | None] = ContextVar("request", default=None)


def as_task(generate: Callable[[], tirx.PrimFunc], bound: int) -> Task:
    """What ``generate`` records, as a :class:`Task`; its symbolic lengths are at most ``bound``."""
    request = _Request(bound)
    token = _request.set(request)
    try:
        generate()
    finally:
        _request.reset(token)
    assert request.task is not None
    return request.task


_LOWERED = -1  # a calling convention that MakePackedAPI leaves alone


def plain_function(name: str, body: Callable[[], tuple[Sequence[tuple[Any, Any]], Sequence[Any]]]) -> Any:
    """A function on plain numbers and pointers that returns 0, for :func:`tvm.tirx.call_extern`.

    Args:
        name: For messages.
        body: Records it. Gives its buffers, each with the pointer that it lies at, and pointers that become
            further parameters.
    """
    with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "calling_conv": _LOWERED})
        buffers, further = body()
    made = builder.get()
    declared = [tirx.DeclBuffer(buffer, data=pointer) for buffer, pointer in buffers]
    # TVM makes of a compute scope a function that is not inlined (a region calls a task from every layer),
    # and that returns an error code, always 0.
    whole = tirx.SeqStmt([*declared, made.body]) if declared else made.body
    scope = tirx.AttrStmt(0, "compute_scope", name, whole)
    return tirx.PrimFunc([*made.params, *further], scope, tvm.ir.PrimType("int32"), made.attrs)


def _record_task(name: str, body: Callable[[], None], bound: int) -> Task:
    made: list[_Recording] = []

    def record() -> tuple[Sequence[tuple[Any, Any]], Sequence[Any]]:
        first, end, fresh = (T.arg(n, tirx.Var(n, "int32")) for n in ("first", "end", "fresh"))
        made.append(_Recording(bound, first, end, fresh))
        token = _current.set(made[0])
        try:
            body()
        finally:
            _current.reset(token)
        return made[0].pointers, made[0].work_pointers

    function = plain_function(name, record)
    (recording,) = made
    arguments, work = tuple(recording.arguments), tuple(recording.work)
    return Task(function, recording.count, arguments, work, recording.scratch)


def recording() -> _Recording | None:
    """The task that is being recorded, None where a kernel is to stand on its own."""
    return _current.get()


@contextmanager
def once() -> Iterator[None]:
    """What a thread does before its first piece of a kernel: it may write work arrays alone."""
    task = recording()
    if task is None:
        yield
    else:
        with emit.if_(task.fresh != 0), emit.then():
            yield


def prim_func(name: str, body: Callable[[], None]) -> tirx.PrimFunc:
    """As the shared word; where :func:`as_task` asked for a task, that is recorded instead."""
    request = _request.get()
    if request is None:
        return emit.prim_func(name, body)
    request.task = _record_task(name, body, request.bound)
    return request.task.function


def symbol(name: str) -> Any:
    """A symbolic int64 length."""
    task = recording()
    if task is None:
        return emit.symbol(name)
    length = emit.symbol(name)
    task.arguments.append(length)
    return T.arg(name, length)


def declare(name: str, shape: Sequence[Any], dtype: str) -> Any:
    """The next buffer argument; a shape may hold :func:`symbol` lengths."""
    task = recording()
    if task is None:
        return emit.declare(name, shape, dtype)
    task.arguments.append(tuple(shape))
    return task.pointed(name, shape, dtype)
