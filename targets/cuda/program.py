"""A program for CUDA: lowered functions, host code, and the kernels' source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.s_tir import dlight

from sdc.errors import TargetError
from sdc.ir.model import Model
from sdc.ir.ops import is_op
from sdc.targets.cuda.graphs import capture
from sdc.targets.cuda.kernels.draw import MOST_TOKENS
from sdc.targets.cuda.lower.body import FALLBACK, Scheduled
from sdc.targets.cuda.lower.lowering import Lowering
from sdc.targets.fused.packed import PackedWeights
from sdc.targets.fused.program import CHUNK, Lowered, bound, compile_module, lower_model

__all__ = ["CudaProgram", "compile_program", "lower_for_cuda"]

# What TVM's default schedules may assume; machine code is nvcc's, for every architecture asked for.
_OLDEST = "sm_80"

# A pass of TVM that shrinks buffers to what blocks touch. Kernels here have no blocks, only those that TVM's
# default schedules make have, and it takes longer than all other passes together.
_SKIPPED = ("s_tir.CompactBufferAllocation",)


@dataclass(frozen=True)
class CudaProgram:
    """What TVM made.

    Attributes:
        executable: The virtual machine's program with host code.
        source: CUDA C++ of all kernels.
        workspace: Bytes on the device that functions keep for results on the way, where lengths are bounded.
    """

    executable: relax.VMExecutable
    source: str
    workspace: int


def lower_for_cuda(model: Model) -> tuple[Lowered, tuple[Scheduled, ...]]:
    """The lowered functions, and the schedule that each operation took.

    A decoder whose caches all change in place has ``greedy`` too, which leaves logits on the device; one
    whose operations all have kernels has ``batch``, a token of each of several sequences. ``draw`` takes
    tokens from the logits that ``decode`` and ``batch`` leave on the device. Of a worker's share of a model
    (:func:`sdc.targets.cuda.shard.shard`), logits are a share too; ``greedy`` and ``draw`` see to all.

    Raises:
        TargetError: The module holds something that cannot be compiled.
    """
    lowering = Lowering(PackedWeights(model.params))
    lowered = lower_model(model, lowering, finish=_add_own)
    return lowered, tuple(lowering.schedules)


def _add_own(model: Model, lowering: Any) -> None:
    if model.info.kind == "decoder" and all(s.in_place for s in lowering.states):
        most = min(CHUNK, model.info.max_seq)
        lowering.add_greedy(bound(model, {"batch": 1, "seq": 1}), model.info.vocab)
        if lowering.is_whole("decode"):
            lowering.add_batch(bound(model, {"batch": 1}), most)
        if model.info.vocab <= MOST_TOKENS:
            lowering.add_draw(model.info.vocab, most)


def target() -> tvm.target.Target:
    """Host code for any x86-64 machine, kernels for any of the architectures."""
    return tvm.target.Target({"kind": "cuda", "arch": _OLDEST}, host={"kind": "llvm"})


def compile_program(module: tvm.IRModule, schedules: Sequence[Scheduled], graph: str = "") -> CudaProgram:
    """Host code and kernel source of a lowered module.

    Args:
        schedules: Of all its operations.
        graph: A function that becomes a CUDA graph (:mod:`sdc.targets.cuda.graphs`); "" for none.

    Raises:
        TargetError: TVM cannot compile it.
    """
    workspace: list[int] = []
    planned = [_measured(workspace), *([capture(graph)] if graph else [])]
    executable = compile_module(
        module,
        target(),
        "CUDA",
        schedule=_default_schedules(),
        planned=tvm.transform.Sequential(planned),
        skip=() if any(s.schedule == FALLBACK for s in schedules) else _SKIPPED,
    )
    return CudaProgram(executable, _source(executable.mod), sum(workspace))


def _measured(sizes: list[int]) -> tvm.transform.Pass:
    """Adds the size of every storage that memory planning has set aside; the pool keeps them all."""

    def visit(expr: Any) -> None:
        if is_op(expr, "memory.alloc_storage"):
            size = expr.args[0].values[0]
            sizes.append(int(size) if isinstance(size, tirx.IntImm) else 0)

    @tvm.transform.module_pass(opt_level=0, name="Measured")
    def run(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        for _, function in module.functions_items():
            if isinstance(function, relax.Function):
                relax.analysis.post_order_visit(function, visit)
        return module

    return run


def _default_schedules() -> tvm.transform.Pass:
    """Schedules for what no kernel here takes; ours are marked as scheduled."""
    rules = dlight.gpu
    return dlight.ApplyDefaultSchedule(
        rules.Reduction(), rules.GeneralReduction(), rules.Transpose(), rules.Fallback()
    )


def _source(module: Any) -> str:
    found: list[str] = []

    def walk(node: Any) -> None:
        if node.kind == "cuda":
            found.append(str(node.inspect_source("cuda") or node.inspect_source()))
        for child in node.imports:
            walk(child)

    walk(module)
    if len(found) != 1:
        raise TargetError(f"TVM made {len(found)} modules of CUDA kernels where one was expected")
    return found[0]
