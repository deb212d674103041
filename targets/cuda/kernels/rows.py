"""Steps of one warp on a row of channels in registers: Hadamard and spike encode.

Lane l holds channels l, 32 + l, 64 + l, ...; neighbours within 32 channels are exchanged between lanes,
others are other registers of the same lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from sdc.targets.cuda.emit import (
    WARP,
    integer_bits,
    let,
    registers,
    shuffle_xor,
    warp_max,
)
from sdc.targets.fused.emit import const, load, select, store
from sdc.targets.fused.specs import Encoder

__all__ = ["can_encode", "encode_row", "hadamard_row", "registers_of"]

Expr = Any


def registers_of(width: int) -> int:
    """Registers of a lane for so many channels."""
    return -(-width // WARP)


def can_encode(group: int, block: int) -> bool:
    """Whether a warp's lanes can reduce such groups and transform such blocks where they stand."""
    return (group % WARP == 0 or _is_power(group)) and (not block or _is_power(block))


def _is_power(n: int) -> bool:
    return n & (n - 1) == 0


def hadamard_row(row: Any, width: int, block: int, lane: Expr) -> None:
    """Butterflies with strides 1, 2, 4, ... per block, as the reference has them (signs are in already)."""
    count = registers_of(width)
    stride = 1
    while stride < min(block, WARP):
        for r in range(count):
            mine = let(load(row, (r,)))
            other = let(shuffle_xor(mine, stride))
            lower = tirx.bitwise_and(lane, stride).equal(0)
            store(row, (r,), select(lower, mine + other, other - mine))
        stride *= 2
    while stride < block:
        step = stride // WARP
        for r in range(count):
            if not r & step:
                top, bottom = let(load(row, (r,))), let(load(row, (r + step,)))
                store(row, (r,), top + bottom)
                store(row, (r + step,), top - bottom)
        stride *= 2


def encode_row(
    row: Any,
    width: int,
    encoder: Encoder,
    numbers: tuple[Expr, ...],
    write: Callable[[int, Expr], None],
    write_theta: Callable[[int, Expr], None],
    *,
    whole: bool = False,
) -> None:
    """Thresholds and counts of a row, bit-equal to the reference.

    Magnitudes are compared as integers, where NaN lies above infinity and infinity above all numbers: so both
    reach the threshold. Division and rounding are IEEE float32.

    Args:
        numbers: The encoder's limits: threshold factor, levels, dead zone and, if any, floor.
        write: Called with (register, counts as float32).
        write_theta: Called with (register, threshold): every register of a group, all lanes.
        whole: The row is one group, whatever its width (lanes beyond it hold 0).
    """
    count = registers_of(width)
    per_group = count if whole else max(1, encoder.group // WARP)
    last = WARP if whole else min(encoder.group, WARP)
    top = registers(count, "int32")
    for first in range(0, count, per_group):
        span = range(first, min(first + per_group, count))
        magnitude = [integer_bits(load(row, (r,))) & const(0x7FFFFFFF, "int32") for r in span]
        store(top, (first,), magnitude[0])
        for other in magnitude[1:]:
            store(top, (first,), tirx.max(load(top, (first,)), other))
        warp_max(top, first, last=last)
        theta = let(tirx.reinterpret("float32", load(top, (first,))) * numbers[0])
        if encoder.floored:  # a choice, not a maximum, lets NaN pass
            theta = let(select(theta < numbers[3], numbers[3], theta))
        for r in span:
            write_theta(r, theta)
            write(r, _count(load(row, (r,)), theta, numbers[1], numbers[2], encoder))


def _count(x: Expr, theta: Expr, levels: Expr, zone: Expr, encoder: Encoder) -> Expr:
    zero = const(0.0, "float32")
    usable = tirx.all(theta > zero, theta < tirx.infinity("float32"))
    safe = let(select(usable, theta, const(1.0, "float32")))
    rounded = let(tirx.nearbyint(x / safe))
    clipped = let(tirx.max(tirx.min(rounded, levels), zero - levels if encoder.signed else zero))
    if encoder.zoned:
        clipped = let(select(tirx.abs(x) < zone * safe, zero, clipped))
    return let(select(usable, clipped, zero))
