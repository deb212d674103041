"""The four-byte integer dot product that carries the load, in the words of every instruction set."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from sdc.targets.cpu.emit import const, lane_type
from sdc.targets.cpu.isa import Isa

__all__ = ["dot4"]

Expr = Any


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
    if isa.dot == "sdot" and lanes == 4:
        return _signed_dot(acc, unsigned, signed)
    if isa.dot == "maddubs" and lanes in _MADD and _MADD_LEVEL[lanes] <= isa.lanes:
        return acc + (_narrow_pairs if narrow else _wide_pairs)(unsigned, signed, lanes)
    return acc + _four_products(unsigned, signed, lanes)


def _signed_dot(acc: Expr, unsigned: Expr, signed: Expr) -> Expr:
    """u s = (u - 128) s + 128 s, where u - 128 is a signed byte, and 128 s is 64 s twice."""
    top, half = const(-0x7F7F7F80, "int32", 4), const(0x40404040, "int32", 4)
    low = _sdot(acc, tirx.bitwise_xor(unsigned, top), signed)
    return low + _sdot(_sdot(const(0, "int32", 4), half, signed), half, signed)


def _sdot(acc: Expr, a: Expr, b: Expr) -> Expr:
    both = (tirx.reinterpret("int8x16", a), tirx.reinterpret("int8x16", b))
    return tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", acc, *both)


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
