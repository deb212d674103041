"""Instruction sets of a CPU: vector widths, and the four-byte integer dot product that carries the load."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from sdc.errors import TargetError
from sdc.targets.cpu.emit import const, lane_type

__all__ = ["LEVELS", "Isa", "best_level", "dot4"]

Expr = Any


@dataclass(frozen=True)
class Isa:
    """One level of CPU features that kernels are generated for.

    Attributes:
        name: Key in the artefact, e.g. ``x86-64-v3``.
        lanes: 32-bit lanes of a vector register.
        features: LLVM feature names that the machine must have.
        dot: ``vnni`` (vpdpbusd), ``maddubs`` (x86 pairs of 16 bits), ``usdot`` (ARM with i8mm) or ``plain``
            (any machine).
        rows: Tokens that the prefill kernel keeps in registers.
    """

    name: str
    mcpu: str
    lanes: int
    features: tuple[str, ...]
    dot: str
    rows: int

    def target(self) -> tvm.target.Target:
        """The LLVM target of this level."""
        options: dict[str, Any] = {"kind": "llvm"}
        if self.mcpu:
            options["mcpu"] = self.mcpu
        if self.dot == "vnni":
            options["mattr"] = ["+avx512vnni", "-prefer-256-bit"]
        elif self.dot == "usdot":
            options["mattr"] = ["+neon", "+i8mm"]
            if platform.machine().lower() not in ("aarch64", "arm64"):
                options["mtriple"] = "aarch64-linux-gnu"  # compiled, but not run here
        return tvm.target.Target(options)


# Feature sets: x86-64 psABI, micro-architecture levels v2 to v4; FEAT_I8MM of the Arm Architecture Reference
# Manual (DDI 0487), in all cores from Armv8.6 on. Best first.
LEVELS: tuple[Isa, ...] = (
    Isa("x86-64-v4-vnni", "x86-64-v4", 16, ("avx512f", "avx512bw", "avx512vl", "avx512vnni"), "vnni", 8),
    Isa("x86-64-v3", "x86-64-v3", 8, ("avx2", "fma"), "maddubs", 3),
    Isa("x86-64-v2", "x86-64-v2", 4, ("sse4.1", "ssse3"), "maddubs", 1),
    Isa("aarch64-i8mm", "", 4, ("i8mm",), "usdot", 4),
    Isa("generic", "", 4, (), "plain", 1),
)


def best_level(names: tuple[str, ...] | None = None) -> Isa:
    """The best level that this machine has, among ``names`` (default: all).

    Raises:
        TargetError: It has none of them.
    """
    host = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    present = {str(feature) for feature, on in host.items() if int(on)}
    for level in LEVELS:
        if (names is None or level.name in names) and present.issuperset(level.features):
            return level
    raise TargetError(f"this machine runs none of the instruction sets {', '.join(names or ())}")


def dot4(isa: Isa, acc: Expr, unsigned: Expr, signed: Expr, lanes: int, *, narrow: bool) -> Expr:
    """acc + sum of four byte products in every 32-bit lane, exact.

    Args:
        isa: Chooses the instructions.
        acc: int32 x lanes.
        unsigned: int32 x lanes, each lane four bytes 0..255.
        signed: int32 x lanes, each lane four bytes -128..127.
        lanes: Vector length (4, 8 or 16 for the x86 instructions; anything for ``plain``).
        narrow: Two neighbouring products always add up within int16, so ``pmaddubsw`` cannot saturate.
    """
    if isa.dot == "vnni" and lanes in _BITS:
        name = f"llvm.x86.avx512.vpdpbusd.{_BITS[lanes]}"
        as_bytes = lane_type("int8", 4 * lanes)
        return tirx.call_llvm_pure_intrin(
            lane_type("int32", lanes),
            name,
            acc,
            tirx.reinterpret(as_bytes, unsigned),
            tirx.reinterpret(as_bytes, signed),
        )
    if isa.dot == "usdot" and lanes == 4:
        return tirx.call_llvm_pure_intrin(
            "int32x4",
            "llvm.aarch64.neon.usdot.v4i32.v16i8",
            acc,
            tirx.reinterpret("int8x16", unsigned),
            tirx.reinterpret("int8x16", signed),
        )
    if isa.dot == "maddubs" and lanes in _MADD and _MADD_LEVEL[lanes] <= isa.lanes:
        return acc + (_narrow_pairs if narrow else _wide_pairs)(unsigned, signed, lanes)
    return acc + _four_products(unsigned, signed, lanes)


_BITS = {4: "128", 8: "256", 16: "512"}
_MADDUBS = {4: "llvm.x86.ssse3.pmadd.ub.sw.128", 8: "llvm.x86.avx2.pmadd.ub.sw"}
_MADD = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd"}
_MADD_LEVEL = {4: 4, 8: 8}


def _narrow_pairs(unsigned: Expr, signed: Expr, lanes: int) -> Expr:
    as_bytes = lane_type("int8", 4 * lanes)
    halves = lane_type("int16", 2 * lanes)
    pairs = tirx.call_llvm_pure_intrin(
        halves, _MADDUBS[lanes], tirx.reinterpret(as_bytes, unsigned), tirx.reinterpret(as_bytes, signed)
    )
    ones = const(1, "int16", 2 * lanes)
    return tirx.call_llvm_pure_intrin(lane_type("int32", lanes), _MADD[lanes], pairs, ones)


def _wide_pairs(unsigned: Expr, signed: Expr, lanes: int) -> Expr:
    """Even and odd bytes as 16-bit halves, so that no product saturates."""
    halves = lane_type("int16", 2 * lanes)
    eight = const(8, "int16", 2 * lanes)
    u, s = tirx.reinterpret(halves, unsigned), tirx.reinterpret(halves, signed)
    low = const(255, "int16", 2 * lanes)
    even = (u & low, tirx.shift_right(tirx.shift_left(s, eight), eight))
    odd = (tirx.shift_right(u, eight) & low, tirx.shift_right(s, eight))
    madd = [tirx.call_llvm_pure_intrin(lane_type("int32", lanes), _MADD[lanes], a, b) for a, b in (even, odd)]
    return madd[0] + madd[1]


def _four_products(unsigned: Expr, signed: Expr, lanes: int) -> Expr:
    total = const(0, "int32", lanes)
    for byte in range(4):
        u = tirx.shift_right(unsigned, const(8 * byte, "int32", lanes)) & const(255, "int32", lanes)
        up = const(24 - 8 * byte, "int32", lanes)
        s = tirx.shift_right(tirx.shift_left(signed, up), const(24, "int32", lanes))
        total = total + u * s
    return total
