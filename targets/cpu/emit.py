"""Words for writing this target's TIR: those that all targets share, loops, arrays and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

from sdc.targets.cpu.task import STACK_BYTES, array_bytes, declare, once, prim_func, recording, symbol
from sdc.targets.fused.emit import (
    broadcast,
    const,
    if_,
    lane_type,
    load,
    otherwise,
    select,
    store,
    then,
    vector_range,
)

__all__ = [
    "SKIPPED",
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
    "once",
    "otherwise",
    "prim_func",
    "reduce_add",
    "reduce_smax",
    "rounded",
    "scratch",
    "select",
    "store",
    "symbol",
    "then",
    "vector_range",
]

Expr = Any
Buffer = Any

# Passes of TVM that these kernels do without. CompactBufferAllocation shrinks buffers to what blocks touch:
# there are no blocks, and its analysis of a region of some hundred steps takes as long as all else together.
# StorageRewrite moves a task's arrays out of its compute scope: they would be memory that is passed to it,
# where LLVM makes registers of those inside. The rest look for a GPU's threads and memories, or for software
# pipelines, and would walk through all kernels to find none.
SKIPPED = (
    "s_tir.CompactBufferAllocation",
    "tirx.StorageRewrite",
    "s_tir.LowerCrossThreadReduction",
    "s_tir.LiftThreadBinding",
    "s_tir.ManifestSharedMemoryLocalStage",
    "s_tir.LowerAutoCopy",
    "s_tir.UnifyThreadBinding",
    "s_tir.InjectPermutedLayout",
    "s_tir.InjectSoftwarePipeline",
    "s_tir.TransformMmaBufferLayout",
    "s_tir.InjectVirtualThread",
    "s_tir.InjectDoubleBuffer",
    "s_tir.LowerVtcmAlloc",
    "s_tir.ThreadSync",
    "s_tir.InferFragment",
    "s_tir.LowerThreadAllreduce",
    "s_tir.MergeSharedMemoryAllocations",
)


def local(size: int, dtype: str) -> Buffer:
    """A small array of one thread: on the stack, and in registers where LLVM can follow the indices.

    TVM puts arrays of less than 1024 bytes on the stack, and only those of scope ``global``; others come from
    its workspace pool, at the price of a call.
    """
    task = recording()
    if task is not None and array_bytes((size,), dtype, 0) >= STACK_BYTES:
        return task.reserve((size,), dtype)
    return T.alloc_buffer((size,), dtype, scope="global")


def scratch(shape: Sequence[Any], dtype: str) -> Buffer:
    """A work array, of any size."""
    task = recording()
    if task is not None:
        return task.reserve(shape, dtype)
    return T.alloc_buffer(tuple(shape), dtype, scope="global", align=64)


def loop(extent: Any, *, parallel: bool = False) -> AbstractContextManager[Expr]:
    """A loop over 0 .. extent - 1, across threads where ``parallel`` (at most one in a kernel)."""
    task = recording()
    if parallel and task is not None:
        task.count = extent
        return T.serial(task.first, task.end)
    return T.parallel(0, extent) if parallel else T.serial(0, extent)


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


def rounded(value: Expr) -> Expr:
    """A float32 product that is rounded before anything is added to it.

    TVM lets LLVM fuse products with sums, which rounds once instead of twice, and only where the CPU can.
    """
    dtype = value.ty.dtype
    suffix = "f32" if dtype.lanes == 1 else f"v{dtype.lanes}f32"
    return tirx.call_llvm_pure_intrin(str(dtype), f"llvm.arithmetic.fence.{suffix}", value)


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


def build(
    functions: dict[str, tirx.PrimFunc], target: tvm.target.Target, *, checks: bool = True
) -> tvm.runtime.Module:
    """Compiles kernels on their own, callable by name (tests and measurements).

    Args:
        checks: They check their arguments, which the kernels of a program do not.
    """
    module = tvm.IRModule({k: f.with_attr("global_symbol", k) for k, f in functions.items()})
    options = {"tirx.disable_assert": not checks}
    with tvm.transform.PassContext(disabled_pass=list(SKIPPED), config=options):
        return tvm.tirx.build(module, target=target)
