"""Runs a CUDA kernel's TIR in NumPy: all threads of the grid in lockstep, with checks that a device lacks.

Every expression is an array over the grid's threads. An access outside its buffer or off its alignment, a
barrier or shuffle that some of the threads do not reach, and two threads of a block that touch a shared word
without a barrier between them (one of them writing) are errors. Floats are IEEE float32, rounded after each
operation, which is what the target compiles for; mma and dp4a follow the PTX ISA's description of their
operands.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from helpers.simt_memory import Global, Local, Memory, Shared
from helpers.simt_operations import BINARY, CALLS, dot4, reinterpret
from numpy.typing import NDArray
from tvm import tirx
from tvm_ffi import StructuralKey

__all__ = ["SimtError", "launch", "run_kernel"]

WARP = 32
Value = NDArray
Code = Callable[[], Value]
Shapes = tuple[tuple[tuple[int, ...], str], ...]


class SimtError(Exception):
    """The kernel did what no CUDA kernel may do."""


def run_kernel(function: tirx.PrimFunc, *inputs: NDArray, out: list[tuple[tuple[int, ...], str]]) -> Any:
    """Calls the kernel with the inputs (those that it writes change) and fresh outputs; returns those."""
    results = [np.full(shape, 85, dtype) for shape, dtype in out]
    launch(function, [*inputs, *results])
    return results[0] if len(results) == 1 else results


def launch(function: tirx.PrimFunc, arrays: list[NDArray]) -> None:
    """Runs a kernel once.

    Args:
        function: A PrimFunc with thread bindings, as the generators give it.
        arrays: One per parameter, contiguous; those that the kernel writes are changed.
    """
    shapes = tuple((array.shape, str(array.dtype)) for array in arrays)
    _translated(_key(function), shapes).run(arrays)


@lru_cache(maxsize=1024)
def _key(function: tirx.PrimFunc) -> StructuralKey:
    return StructuralKey(function)


@lru_cache(maxsize=256)
def _translated(function: StructuralKey, shapes: Shapes) -> Emulator:
    """A program launches the same kernels for every token, and others have equal ones.

    Translating a kernel takes longer than running it.
    """
    return Emulator(function.key, shapes)


class Emulator:
    """A kernel as Python code for arrays of some shapes.

    Args:
        function: A PrimFunc with thread bindings.
        shapes: Shape and dtype of the array for each parameter.
    """

    def __init__(self, function: tirx.PrimFunc, shapes: Shapes) -> None:
        # By hash, which is the address of what the function holds: comparing variables makes an expression.
        self.function = function
        self.vars: dict[int, Value] = {}
        self.memories: dict[int, Memory] = {}
        self.constants: dict[tuple[str, str, int], Value] = {}
        self.codes: dict[int, tuple[Any, Code]] = {}
        self.lanes = self.blocks = 1
        self.lock = threading.Lock()  # workers of a sharded program launch from threads
        for param, (shape, dtype) in zip(function.params, shapes, strict=True):
            self.bind_shape(param, shape, dtype)
        body = self.launch(function.body)
        self.arguments = [Global(str(p.name), np.empty(0, str(p.ty.dtype))) for p in function.params]
        self.memories.update(zip(map(hash, function.params), self.arguments, strict=True))
        self.mask = np.ones(self.lanes, bool)
        self.codes.clear()  # of one lane
        self.code = self.statement(body)
        self.codes.clear()
        self.bound = dict(self.vars)

    def run(self, arrays: list[NDArray]) -> None:
        """All blocks, all threads, on fresh registers and shared memory."""
        with self.lock:
            self._run(arrays)

    def _run(self, arrays: list[NDArray]) -> None:
        for memory, array in zip(self.arguments, arrays, strict=True):
            assert array.flags.c_contiguous
            memory.data = array.reshape(-1)
        for memory in self.memories.values():
            memory.reset()
        self.vars, self.mask = dict(self.bound), np.ones(self.lanes, bool)
        self.epoch = np.zeros(self.lanes, np.int64)  # barriers that each thread has passed
        with np.errstate(all="ignore"):
            self.code()

    def bind_shape(self, param: Any, sizes: tuple[int, ...], dtype: str) -> None:
        shape = list(param.ty.shape)
        assert len(shape) == len(sizes), f"{param.name}: rank {len(sizes)}, kernel wants {len(shape)}"
        assert str(param.ty.dtype) == dtype, f"{param.name}: {dtype} for {param.ty.dtype}"
        for dimension, size in zip(shape, sizes, strict=True):
            if isinstance(dimension, tirx.IntImm):
                assert int(dimension.value) == size, f"{param.name}: {sizes} for {shape}"
            else:
                known = self.vars.setdefault(hash(dimension), np.full(1, size, np.int64))
                assert int(known[0]) == size

    def launch(self, body: Any) -> Any:
        """Reads the grid, and gives every thread its numbers."""
        extents: list[tuple[Any, str, int]] = []
        while isinstance(body, tirx.stmt.AttrStmt):
            size = int(np.asarray(self.expression(body.value)()).reshape(-1)[0])
            extents.append((body.node.var, str(body.node.thread_tag), size))
            body = body.body
        block = [e for e in extents if e[1].startswith("blockIdx")]
        threads = [e for e in extents if e[1].startswith("threadIdx")]
        assert len(threads) == 1, "kernels here have one axis of threads"
        self.threads = threads[0][2]
        assert self.threads % WARP == 0, "whole warps"
        self.blocks = math.prod(size for *_, size in block)
        self.lanes = self.blocks * self.threads
        number = np.repeat(np.arange(self.blocks), self.threads)
        self.block_of = number
        self.thread = np.tile(np.arange(self.threads), self.blocks)
        for var, _, size in block:
            self.vars[hash(var)] = (number % size).astype(str(var.ty.dtype))
            number = number // size
        self.vars[hash(threads[0][0])] = self.thread.astype(str(threads[0][0].ty.dtype))
        for var, value in self.vars.items():
            if len(value) == 1:
                self.vars[var] = np.full(self.lanes, value[0])
        return body

    # Statements

    def statement(self, node: Any) -> Callable[[], None]:
        kind = type(node).__name__
        return getattr(self, f"do_{kind}")(node)

    def do_SeqStmt(self, node: Any) -> Callable[[], None]:
        parts = [self.statement(s) for s in node.seq]

        def run() -> None:
            for part in parts:
                part()

        return run

    def do_AllocBuffer(self, node: Any) -> Callable[[], None]:
        buffer = node.buffer
        size = math.prod(int(d) for d in buffer.ty.shape)
        dtype, name = str(buffer.ty.dtype), str(buffer.name)
        scope = str(buffer.ty.storage_scope)
        if scope == "shared":
            self.memories[hash(buffer)] = Shared(name, size, dtype, self)
        else:
            assert scope == "local", scope
            self.memories[hash(buffer)] = Local(name, size, dtype, self)
        return lambda: None

    def do_Bind(self, node: Any) -> Callable[[], None]:
        var, value = hash(node.var), self.expression(node.value)

        def run() -> None:
            self.vars[var] = value()

        return run

    def do_BufferStore(self, node: Any) -> Callable[[], None]:
        memory = self.memories[hash(node.buffer)]
        at, value = self.address(node.buffer, node.indices), self.expression(node.value)

        def run() -> None:
            data, index = value(), at()
            memory.store(index, np.broadcast_to(data, index.shape), self.mask)

        return run

    def do_Evaluate(self, node: Any) -> Callable[[], None]:
        call = node.value
        if str(call.op.name) == "tirx.tvm_storage_sync":
            return self.barrier
        assert str(call.op.name) == "tirx.cuda.func_call", call
        return self.device_call(call)

    def barrier(self) -> None:
        """Of those blocks that are here."""
        reached = self.mask.reshape(self.blocks, self.threads)
        if (reached.any(1) != reached.all(1)).any():
            raise SimtError("a barrier that some threads do not reach")
        self.epoch = self.epoch + self.mask

    def do_IfThenElse(self, node: Any) -> Callable[[], None]:
        condition = self.expression(node.condition)
        yes = self.statement(node.then_case)
        no = self.statement(node.else_case) if node.else_case is not None else None

        def run() -> None:
            outer = self.mask
            chosen = condition() & outer
            if chosen.any():
                self.mask = chosen
                yes()
            rest = outer & ~chosen
            if no is not None and rest.any():
                self.mask = rest
                no()
            self.mask = outer

        return run

    def do_For(self, node: Any) -> Callable[[], None]:
        first, extent, var = self.expression(node.min), self.expression(node.extent), node.loop_var
        body = self.statement(node.body)
        dtype, name = str(var.ty.dtype), hash(var)

        def run() -> None:
            outer, start, length = self.mask, first(), extent()
            length = np.where(outer, length, 0)
            for i in range(int(length.max(initial=0))):
                self.mask = outer & (i < length)
                self.vars[name] = (start + i).astype(dtype)
                body()
            self.mask = outer

        return run

    def do_While(self, node: Any) -> Callable[[], None]:
        condition, body = self.expression(node.condition), self.statement(node.body)

        def run() -> None:
            outer = self.mask
            while True:
                self.mask = self.mask & condition()
                if not self.mask.any():
                    break
                body()
            self.mask = outer

        return run

    # Expressions

    def expression(self, node: Any) -> Code:
        """Two thirds of a kernel's expressions are parts that it uses elsewhere too."""
        if isinstance(node, tirx.IntImm | tirx.FloatImm):  # whose hash is no address
            return self.constant(node)
        name = hash(node)
        if name not in self.codes:
            self.codes[name] = node, self.translate(node)  # which keeps the node: its address is the name
        return self.codes[name][1]

    def translate(self, node: Any) -> Code:
        kind = type(node).__name__
        if kind in BINARY:
            a, b, operation = self.expression(node.a), self.expression(node.b), BINARY[kind]
            return lambda: operation(a(), b())
        return getattr(self, f"of_{kind}")(node)

    def constant(self, node: Any) -> Code:
        key = repr(node.value), str(node.ty.dtype), self.lanes  # of text: -0.0 equals 0.0
        if key not in self.constants:
            single = np.full(1, node.value, str(node.ty.dtype))
            self.constants[key] = np.broadcast_to(single, (self.lanes,))
        value = self.constants[key]
        return lambda: value

    def of_Var(self, node: Any) -> Code:
        name = hash(node)
        return lambda: self.vars[name]

    def of_Cast(self, node: Any) -> Code:
        value, dtype = self.expression(node.value), str(node.ty.dtype).split("x")[0]
        return lambda: value().astype(dtype)

    def of_Not(self, node: Any) -> Code:
        value = self.expression(node.a)
        return lambda: ~value()

    def of_Select(self, node: Any) -> Code:
        parts = [self.expression(e) for e in (node.condition, node.true_value, node.false_value)]
        return lambda: np.where(*(p() for p in parts))

    def of_Broadcast(self, node: Any) -> Code:
        value, lanes = self.expression(node.value), int(node.lanes)
        return lambda: np.repeat(value()[:, None], lanes, 1)

    def of_Ramp(self, node: Any) -> Code:
        base, stride, lanes = self.expression(node.base), int(node.stride), int(node.lanes)
        return lambda: base()[:, None] + stride * np.arange(lanes)

    def of_TensorLoad(self, node: Any) -> Code:
        memory, at = self.memories[hash(node.source)], self.address(node.source, node.indices)
        return lambda: memory.load(at(), self.mask)

    def address(self, buffer: Any, indices: Any) -> Callable[[], NDArray]:
        """Flat element numbers [threads] or [threads, lanes], each index within its axis."""
        sizes = [self.size(d) for d in buffer.ty.shape]
        parts = [self.expression(i) for i in indices]
        name = str(buffer.name)

        def run() -> NDArray:
            flat = None
            for number, (part, size) in enumerate(zip(parts, sizes, strict=True)):
                index = part().astype(np.int64, copy=False)
                active = self.mask if index.ndim == 1 else self.mask[:, None]
                if ((index.view(np.uint64) >= size) & active).any():  # a negative one is large
                    raise SimtError(f"{name}: index {number} leaves 0..{size - 1}")
                if flat is not None:
                    index = (flat if index.ndim == 1 else flat[:, None]) * size + index
                flat = index
            return np.zeros(self.lanes, np.int64) if flat is None else flat

        return run

    def size(self, dimension: Any) -> int:
        return (
            int(dimension.value) if isinstance(dimension, tirx.IntImm) else int(self.vars[hash(dimension)][0])
        )

    def of_Call(self, node: Any) -> Code:
        name = str(node.op.name)
        if name == "tirx.cuda.func_call":
            return self.device_call(node)
        if name == "tirx.reinterpret":
            value, dtype = self.expression(node.args[0]), str(node.ty.dtype)
            return lambda: reinterpret(value(), dtype)
        if name == "tirx.call_pure_extern":
            assert str(node.args[0].value) == "expf"
            value = self.expression(node.args[1])
            return lambda: np.exp(value())
        operation, parts = CALLS[name], [self.expression(a) for a in node.args]
        return lambda: operation(*(p() for p in parts))

    def device_call(self, node: Any) -> Any:
        name = str(node.args[0].value)
        args = list(node.args)[1:-1]
        if name.startswith("sdc_mma_"):
            return self.mma(name, args)
        parts = [self.expression(a) for a in args]
        if name.startswith("sdc_dot4_"):
            kind = np.uint8 if name.endswith("u8") else np.int8
            return lambda: dot4(parts[0](), parts[1](), parts[2](), kind)
        operation = getattr(self, re.sub("^sdc_|_(int32|int64|float32)$", "", name))
        return lambda: operation(*(p() for p in parts))

    # Warp operations

    def whole_warps(self) -> None:
        rows = self.mask.reshape(-1, WARP)
        if (rows.any(1) != rows.all(1)).any():
            raise SimtError("a warp operation that some lanes of a warp do not reach")

    def shuffle_xor(self, value: Value, mask: Value) -> Value:
        return self.shuffle(value, np.arange(self.lanes) % WARP ^ mask)

    def shuffle(self, value: Value, lane: Value) -> Value:
        self.whole_warps()
        first = np.arange(self.lanes) // WARP * WARP
        return np.broadcast_to(value, (self.lanes,))[first + lane % WARP]

    def vote(self, condition: Value) -> Value:
        self.whole_warps()
        bits = (condition.reshape(-1, WARP) != 0).astype(np.uint32) << np.arange(WARP, dtype=np.uint32)
        return np.repeat(bits.sum(1, dtype=np.uint32).view(np.int32), WARP)

    def count_bits(self, bits: Value) -> Value:
        return np.bitwise_count(bits.astype(np.int32).view(np.uint32)).astype(np.int32)

    def first_bit(self, bits: Value) -> Value:
        number = bits.astype(np.int32).view(np.uint32)
        lowest = number & (~number + np.uint32(1))
        return np.where(number == 0, -1, np.log2(np.maximum(lowest, 1)).astype(np.int32)).astype(np.int32)

    def mma(self, name: str, args: list[Any]) -> Callable[[], None]:
        """mma.m16n8k32 on bytes; which lane holds what: PTX ISA, "Matrix Fragments for mma.m16n8k32"."""
        pointer, parts = args[0], [self.expression(a) for a in args[1:]]
        assert str(pointer.op.name) == "tirx.tvm_access_ptr"
        memory, at = self.memories[hash(_buffer_of(pointer))], int(pointer.args[2])
        kind = np.uint8 if name.endswith("u8") else np.int8

        def run() -> None:
            self.whole_warps()
            words = [np.ascontiguousarray(p().astype(np.int32)).reshape(-1, 8, 4) for p in parts]
            bytes_ = [w.view(np.int8).reshape(-1, 8, 16).astype(np.int32) for w in words]
            unsigned = [w.view(kind).reshape(-1, 8, 16).astype(np.int32) for w in words[:4]]
            low, high = np.concatenate(unsigned[0::2], 2), np.concatenate(unsigned[1::2], 2)
            a = np.concatenate([low, high], 1)  # [warps, 16, 32]
            b = np.concatenate(bytes_[4:], 2)  # [warps, 8, 32]
            c = np.einsum("wmk,wnk->wmn", a, b).astype(np.int32)
            halves = [c[:, :8].reshape(-1, 4 * 8, 2), c[:, 8:].reshape(-1, 4 * 8, 2)]
            for part in range(4):
                index = np.full(self.lanes, at + part, np.int64)
                add = halves[part // 2][..., part % 2].reshape(-1)
                memory.store(index, memory.load(index, self.mask) + add, self.mask)

        return run


def _buffer_of(pointer: Any) -> Any:
    """The buffer whose data an access pointer names."""
    data = pointer.args[1]
    return data if isinstance(data, tirx.Var) else data.args[0]
