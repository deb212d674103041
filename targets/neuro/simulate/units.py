"""Everything that is no spike: control, loading, encoding, KV cache, the vector unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.errors import NumericsError
from sdc.ir import float32
from sdc.ir.params import hadamard_transform
from sdc.targets.neuro.isa.fields import Length, Ref
from sdc.targets.neuro.simulate.core import MAX_LOOPS, Core, Loop

__all__ = ["CONTROL", "LOAD", "ENCODE", "CACHE", "VECTOR"]


def _halt(core: Core) -> None:
    core.halted = True


def _jump(core: Core, target: int) -> None:
    core.pc = target - 1


def _loop(core: Core, count: int) -> None:
    if count == 0 or len(core.loops) == MAX_LOOPS:
        raise core.error(f"LOOP: {count} iterations at level {len(core.loops) + 1}")
    core.loops.append(Loop(core.pc, count))


def _endl(core: Core) -> None:
    loop = core.loop
    loop.iteration += 1
    if loop.iteration < loop.count:
        core.pc = loop.start
    else:
        core.loops.pop()


def _base(core: Core, register: int, value: int) -> None:
    if register == 0:
        raise core.error("BASE: register 0 is always zero")
    core.bases[register] = value


def _adv(core: Core, register: int, value: int) -> None:
    _base(core, register, core.bases[register] + value)


def _next(core: Core) -> None:
    core.pos += 1


def _pos(core: Core, target: Ref) -> None:
    core.i[core.words(target, 1)] = core.pos


def _barrier(core: Core, group: int) -> None:
    core.barrier = group


def _fill(core: Core, target: Ref, value: float, length: Length) -> None:
    core.f[core.words(target, core.length(length))] = np.float32(value)


def _copy(core: Core, target: Ref, source: Ref, length: Length) -> None:
    count = core.length(length)
    core.n[core.words(target, count)] = core.n[core.words(source, count)].copy()


def _ldw(core: Core, target: Ref, source: Ref, length: Length) -> None:
    count = core.length(length)
    core.n[core.words(target, count)] = core.table(source, 0, count)


def _gather(core: Core, target: Ref, table: Ref, row: Ref, length: Length, rows: int) -> None:
    count, chosen = core.length(length), int(core.i[core.words(row, 1)][0])
    if not 0 <= chosen < rows:
        raise core.error(f"RANGE: row {chosen} of a table of {rows}")
    core.n[core.words(target, count)] = core.table(table, chosen * count, count)


def _stream(core: Core, target: Ref, start: int, count: int) -> None:
    if start + count > len(core.external):
        raise core.error(f"ADDRESS: external memory has {len(core.external)} bytes, read to {start + count}")
    core.s[core.bytes(target, count)] = core.external[start : start + count]
    core.events["streamed"] += count


def _fetch(core: Core, target: Ref, start: int, row: Ref, count: int) -> None:
    chosen = int(core.i[core.words(row, 1)][0])
    if chosen < 0:
        raise core.error(f"RANGE: row {chosen} of a table")
    _stream(core, target, start + chosen * count, count)


def _theta(core: Core, target: Ref, source: Ref, length: Length, group: int, factor: float) -> None:
    count, groups = core.groups(length, group)
    top = np.abs(core.f[core.words(source, count)]).reshape(groups, -1).max(1)
    theta = top * np.float32(factor)
    if not np.isfinite(theta).all():
        raise NumericsError(core.place(), f"NaN or infinity in an activation (core {core.program.core})")
    core.f[core.words(target, groups)] = theta
    core.events["vector"] += count


def _mute(core: Core, x: Ref, theta: Ref, length: Length, group: int, zone: float) -> None:
    count, groups = core.groups(length, group)
    values = core.f[core.words(x, count)].reshape(groups, -1)
    limit = np.float32(zone) * core.f[core.words(theta, groups)]
    values[np.abs(values) < limit[:, None]] = 0
    core.events["vector"] += count


def _count(
    core: Core, target: Ref, source: Ref, theta: Ref, length: Length, group: int, levels: int, sign: str
) -> None:
    count, groups = core.groups(length, group)
    limit = core.f[core.words(theta, groups)][:, None]
    values = core.f[core.words(source, count)].reshape(groups, -1)
    counts = np.rint(values / np.where(limit > 0, limit, np.float32(1)))
    counts = np.clip(counts, -levels if sign == "s" else 0, levels)
    made = np.where(limit > 0, counts, np.float32(0)).astype(np.int32).ravel()
    core.i[core.words(target, count)] = made
    core.events["encodes"] += count
    core.counted(core, made, limit)


def _had(core: Core, x: Ref, signs: Ref, length: Length, log2block: int) -> None:
    count, _ = core.groups(length, 1 << log2block)
    values = core.f[core.words(x, count)]
    values[:] = hadamard_transform(values * core.f[core.words(signs, count)], 1 << log2block)
    core.events["vector"] += count * log2block


def _kvrow(core: Core, cache: Ref, counts: Ref, length: Length, stride: int) -> None:
    count = core.length(length)
    row = Ref(cache.address + core.pos * stride, cache.base)
    core.s[core.bytes(row, count)].view(np.int8)[:] = core.i[core.words(counts, count)]


def _kvcol(core: Core, cache: Ref, counts: Ref, length: Length, stride: int) -> None:
    count = core.length(length)
    if core.pos >= stride:
        raise core.error(f"RANGE: token {core.pos} in a cache of {stride}")
    region = core.s[core.bytes(cache, count * stride)].view(np.int8).reshape(count, stride)
    region[:, core.pos] = core.i[core.words(counts, count)]


def _kvword(core: Core, target: Ref, source: Ref) -> None:
    word = core.n[core.words(source, 1)].astype("<u4")
    core.s[core.bytes(Ref(target.address + 4 * core.pos, target.base), 4)] = word.view(np.uint8)


def _binary(function: Callable[[NDArray, NDArray], NDArray], scalar: bool = False) -> Callable[..., None]:
    def run(core: Core, target: Ref, a: Ref, b: Ref, length: Length) -> None:
        count = core.length(length)
        second = core.f[core.words(b, 1 if scalar else count)]
        core.f[core.words(target, count)] = function(core.f[core.words(a, count)], second)
        core.events["vector"] += count

    return run


def _unary(function: Callable[[NDArray], NDArray]) -> Callable[..., None]:
    def run(core: Core, target: Ref, source: Ref, length: Length) -> None:
        count = core.length(length)
        core.f[core.words(target, count)] = function(core.f[core.words(source, count)])
        core.events["vector"] += count

    return run


def _reduction(function: Callable[[NDArray], Any]) -> Callable[..., None]:
    def run(core: Core, target: Ref, source: Ref, length: Length) -> None:
        count = core.length(length)
        core.f[core.words(target, 1)] = function(core.f[core.words(source, count)])
        core.events["vector"] += count

    return run


def _vaddi(core: Core, target: Ref, a: Ref, b: Ref, length: Length) -> None:
    count = core.length(length)
    core.i[core.words(target, count)] = core.i[core.words(a, count)] + core.i[core.words(b, count)]
    core.events["vector"] += count


def _vcvt(core: Core, target: Ref, source: Ref, length: Length) -> None:
    count = core.length(length)
    core.f[core.words(target, count)] = core.i[core.words(source, count)].astype(np.float32)
    core.events["vector"] += count


def _rms(core: Core, target: Ref, source: Ref, gain: Ref, length: Length, epsilon: float) -> None:
    count = core.length(length)
    x, factor = core.f[core.words(source, count)], core.f[core.words(gain, count)]
    core.f[core.words(target, count)] = float32.rms_norm(x, factor, epsilon)
    core.events["vector"] += 4 * count


def _rot(core: Core, x: Ref, cos: Ref, sin: Ref, heads: int, dim: int, half: int, pairs: str) -> None:
    if 2 * half > dim:
        raise core.error(f"RANGE: {half} pairs in a head of {dim}")
    c, s = core.f[core.words(cos, half)], core.f[core.words(sin, half)]
    values = core.f[core.words(x, heads * dim)].reshape(heads, dim)
    first = slice(0, 2 * half, 2) if pairs == "inter" else slice(0, half)
    second = slice(1, 2 * half, 2) if pairs == "inter" else slice(half, 2 * half)
    u, v = values[:, first].copy(), values[:, second].copy()
    values[:, first] = u * c - v * s
    values[:, second] = v * c + u * s
    core.events["vector"] += 6 * heads * half


CONTROL: dict[str, Callable[..., None]] = {
    "nop": lambda core: None,
    "halt": _halt,
    "jump": _jump,
    "loop": _loop,
    "endl": _endl,
    "base": _base,
    "adv": _adv,
    "next": _next,
    "pos": _pos,
    "barrier": _barrier,
}
LOAD: dict[str, Callable[..., None]] = {
    "fill": _fill,
    "copy": _copy,
    "ldw": _ldw,
    "gather": _gather,
    "stream": _stream,
    "fetch": _fetch,
}
ENCODE: dict[str, Callable[..., None]] = {"theta": _theta, "mute": _mute, "count": _count, "had": _had}
CACHE: dict[str, Callable[..., None]] = {"kvrow": _kvrow, "kvcol": _kvcol, "kvword": _kvword}
VECTOR: dict[str, Callable[..., None]] = {
    "vadd": _binary(np.add),
    "vsub": _binary(np.subtract),
    "vmul": _binary(np.multiply),
    "vdiv": _binary(np.divide),
    "vadds": _binary(np.add, scalar=True),
    "vsubs": _binary(np.subtract, scalar=True),
    "vmuls": _binary(np.multiply, scalar=True),
    "vdivs": _binary(np.divide, scalar=True),
    "vaddi": _vaddi,
    "vexp": _unary(float32.exp),
    "vsilu": _unary(float32.silu),
    "vtanh": _unary(float32.tanh),
    "vsqrt": _unary(np.sqrt),
    "vcvt": _vcvt,
    "vsum": _reduction(float32.lane_sum),
    "vmax": _reduction(np.max),
    "rms": _rms,
    "rot": _rot,
}
