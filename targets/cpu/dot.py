"""The four-byte integer dot product that carries the load, in the words of every instruction set."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from sdc.targets.cpu.emit import const, lane_type, load, local, rounded, store
from sdc.targets.cpu.isa import Isa

__all__ = ["QUAD", "ByteSums", "divisor", "dot4"]

Expr = Any

QUAD = 4
"""Channels that meet one byte dot product."""

_LARGEST = 32767  # of 16 bits


class ByteSums:
    """int32 x lanes in an array, to which byte dot products are added.

    ``pmaddubsw`` gives sums of two products in 16 bits. As many of them as cannot overflow are added up in 16
    bits, where one more instruction widens them all; the end of straight code must call :meth:`flush`.

    Args:
        isa: Chooses the instructions.
        array: int32, holds the sums from element ``at`` on.
        lanes: As for :func:`dot4`.
        pair: As for :func:`dot4`.
        room: At most so many products are added up in 16 bits; None: as many as fit.
    """

    def __init__(self, isa: Isa, array: Any, at: int, lanes: int, pair: int, room: int | None = None) -> None:
        self.isa, self.array, self.at, self.lanes, self.pair = isa, array, (at,), lanes, pair
        fitting = self.fitting(isa, lanes, pair)
        self.room = fitting if room is None else min(room, fitting)
        self.short = local(2 * lanes, "int16") if self.room > 1 else None
        self.waiting = 0

    @staticmethod
    def fitting(isa: Isa, lanes: int, pair: int) -> int:
        """How many products are added up in 16 bits; 1: none are."""
        return max(1, _LARGEST // pair) if _has_pairs(isa, lanes) else 1

    def set(self, value: Expr) -> None:
        """Starts from int32 x lanes."""
        store(self.array, self.at, value, self.lanes)

    def add(self, unsigned: Expr, signed: Expr) -> None:
        """Adds a product, the operands as for :func:`dot4`."""
        if self.short is None:
            before = load(self.array, self.at, self.lanes)
            self.set(dot4(self.isa, before, unsigned, signed, self.lanes, pair=self.pair))
            return
        pairs = _pairs(unsigned, signed, self.lanes)
        width = 2 * self.lanes
        total = _in_order(load(self.short, (0,), width) + pairs) if self.waiting else pairs
        store(self.short, (0,), total, width)
        self.waiting += 1
        if self.waiting == self.room:
            self.flush()

    def flush(self) -> None:
        """Takes over what waits in 16 bits."""
        if self.waiting:
            short = load(self.short, (0,), 2 * self.lanes)
            self.set(load(self.array, self.at, self.lanes) + _widened(short, self.lanes))
            self.waiting = 0


def _in_order(value: Expr) -> Expr:
    """A sum of 16-bit integers whose terms LLVM adds in the order given.

    It would add products to each other first, and so keep all of them waiting for the sum: more than there
    are registers.
    """
    dtype = value.ty.dtype
    floats = lane_type("float32", dtype.lanes // 2)
    return tirx.reinterpret(str(dtype), rounded(tirx.reinterpret(floats, value)))  # its fence alone


def divisor(size: int, most: int) -> int:
    """The largest divisor of ``size`` that is at most ``most``."""
    return next(d for d in range(max(1, min(size, most)), 0, -1) if size % d == 0)


def dot4(isa: Isa, acc: Expr, unsigned: Expr, signed: Expr, lanes: int, *, pair: int) -> Expr:
    """acc + sum of four byte products in every 32-bit lane, exact.

    Args:
        isa: Chooses the instructions.
        acc: int32 x lanes.
        unsigned: int32 x lanes, each lane four bytes 0..255.
        signed: int32 x lanes, each lane four bytes -128..127.
        lanes: Vector length (4, 8 or 16 for the x86 instructions; anything for ``plain``).
        pair: The largest magnitude of two neighbouring products' sum: where 16 bits do not hold it,
            ``pmaddubsw`` would saturate.
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
    if _has_pairs(isa, lanes):
        if pair > _LARGEST:
            return acc + _wide_pairs(unsigned, signed, lanes)
        return acc + _widened(_pairs(unsigned, signed, lanes), lanes)
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


def _has_pairs(isa: Isa, lanes: int) -> bool:
    return isa.dot == "maddubs" and lanes in _MADD and lanes <= isa.lanes


def _pairs(unsigned: Expr, signed: Expr, lanes: int) -> Expr:
    """Sums of two byte products, int16 x 2 lanes."""
    as_bytes = lane_type("int8", 4 * lanes)
    return tirx.call_llvm_pure_intrin(
        lane_type("int16", 2 * lanes),
        _MADDUBS[lanes],
        tirx.reinterpret(as_bytes, unsigned),
        tirx.reinterpret(as_bytes, signed),
    )


def _widened(pairs: Expr, lanes: int) -> Expr:
    """Sums of two neighbours, int32 x lanes."""
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
