"""Shapes and weight layout that all kernels of one linear share.

Weights stay in their own order, row by row: int8 [N, K], or int32 [N, K / 8] with eight 4-bit weights a word,
the first four channels in the low halves of its bytes and the next four in the high halves, each as w + 8. So
the GEMV reads 16 neighbouring bytes a lane, the GEMM copies whole tiles, and both unpack in registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sdc.targets.cuda.emit import MMA_K, WORD
from sdc.targets.fused.emit import const, declare, load, store
from sdc.targets.fused.specs import LinearSpec

__all__ = [
    "Operands",
    "can_gemm",
    "can_gemv",
    "declare_operands",
    "finished",
    "scale_at",
    "schedule_of",
    "unpack",
]


def can_gemv(spec: LinearSpec) -> bool:
    """Whether groups are whole words of weights."""
    return spec.group % (WORD if spec.bits == 8 else 2 * WORD) == 0


def can_gemm(spec: LinearSpec) -> bool:
    """Whether groups are whole steps of the tensor cores."""
    return spec.group % MMA_K == 0


def schedule_of(spec: LinearSpec) -> str:
    """The schedule of a linear that a kernel takes: ``gemv-dp4a`` or ``gemm-mma``."""
    return "gemv-dp4a" if spec.tokens == 1 or not can_gemm(spec) else "gemm-mma"


@dataclass(frozen=True)
class Operands:
    """Buffers: counts [n, K], theta [n, Gt], weight, scale [N, Gw], bias [N], residual [n, N], out [n, N].

    Short scales are the upper halves of float32 numbers.
    """

    counts: Any
    theta: Any
    weight: Any
    scale: Any
    bias: Any
    residual: Any
    out: Any


def declare_operands(spec: LinearSpec, n: Any, *, transposed: bool = False) -> Operands:
    """The arguments ``(counts[, theta], weight[, scale][, bias][, residual], out)``; raw kernels give int32
    accumulators [n, K / group, N] and take no scales."""
    counts = declare("counts", (n, spec.width), "uint8" if spec.unsigned else "int8")
    theta = None if spec.raw else declare("theta", (n, spec.theta_groups), "float32")
    shape = (spec.rows, spec.width) if spec.bits == 8 else (spec.rows, spec.width // 8)
    shape = (spec.width, spec.rows) if transposed else shape
    weight = declare("weight", shape, "int8" if spec.bits == 8 or transposed else "int32")
    if spec.raw:
        out = declare("out", (n, spec.width // spec.group, spec.rows), "int32")
        return Operands(counts, theta, weight, None, None, None, out)
    kind = "uint16" if spec.short_scales else "float32"
    scale = declare("scale", (spec.rows, spec.scale_groups), kind)
    bias = declare("bias", (spec.rows,), "float32") if spec.bias else None
    residual = declare("residual", (n, spec.rows), "float32") if spec.residual else None
    return Operands(counts, theta, weight, scale, bias, residual, declare("out", (n, spec.rows), "float32"))


def scale_at(operands: Operands, row: Any, group: Any) -> Any:
    """A weight scale as float32."""
    stored = load(operands.scale, (row, group))
    if str(operands.scale.dtype) == "float32":
        return stored
    bits = tirx.shift_left(stored.astype("uint32"), const(16, "uint32"))
    return tirx.reinterpret("float32", bits)


def finished(operands: Operands, total: Any, m: Any, row: Any) -> Any:
    """The sum over groups with bias and residual."""
    if operands.bias is not None:
        total = total + load(operands.bias, (row,))
    if operands.residual is not None:
        total = load(operands.residual, (m, row)) + total
    return total


def unpack(into: Any, at: int, word: Any) -> None:
    """Eight 4-bit weights to two words of bytes, into[at] and into[at + 1].

    Of each byte, u = w + 8: (u | 0x80) - 8 is 0x80 + w without a borrow from the next byte, and flipping its
    top bit gives w in two's complement.
    """
    for half in range(2):
        nibbles = tirx.shift_right(word, const(4 * half, "int32")) & const(0x0F0F0F0F, "int32")
        high = const(-0x7F7F7F80, "int32")  # 0x80808080
        shifted = tirx.bitwise_or(nibbles, high) - const(0x08080808, "int32")
        store(into, (at + half,), tirx.bitwise_xor(shifted, high))
