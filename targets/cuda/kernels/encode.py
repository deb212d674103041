"""Spike encoding with what comes before it in one kernel: norm, gate, scale, Hadamard, encode."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx

from sdc.targets.cuda.emit import (
    WARP,
    barrier,
    blocks,
    exp,
    let,
    loop,
    registers,
    shared,
    threads,
    warp_sum,
)
from sdc.targets.cuda.kernels.rows import can_encode, encode_row, hadamard_row, registers_of
from sdc.targets.fused.emit import const, declare, if_, load, prim_func, store, symbol, then
from sdc.targets.fused.specs import EncodeSpec

__all__ = ["can_spike_encode", "spike_encode"]

# Channels that one warp transforms and encodes together: 16 registers a lane.
_WIDEST = 512
# Warps of a block where a norm needs the whole row, and where it does not.
_NORM_WARPS, _WARPS = 16, 4


def can_spike_encode(spec: EncodeSpec) -> bool:
    """Whether the kernel takes these groups and blocks; others are left to the naive legalisation."""
    return can_encode(spec.encoder.group, spec.block) and _span(spec) <= _WIDEST


def _span(spec: EncodeSpec) -> int:
    """Channels that hold whole groups and whole Hadamard blocks."""
    return max(WARP, math.lcm(spec.encoder.group, spec.block or 1))


def spike_encode(spec: EncodeSpec) -> tirx.PrimFunc:
    """The kernel ``(x[, x2][, gain][, shift][, scale][, signs], limits, counts, theta)``.

    x [n, stride] float32; gain, shift, scale, signs [K] float32; limits of the encoder; counts [n, K],
    theta [n, K / group] float32. A block per token where a norm needs the whole row, else per token and
    piece; a warp encodes whole groups and needs no other warp.
    """
    return prim_func(spec.key(), lambda: _Kernel(spec).emit())


class _Kernel:
    def __init__(self, spec: EncodeSpec) -> None:
        self.spec = spec
        self.span = _span(spec)
        self.spans = -(-spec.width // self.span)
        self.warps = min(self.spans, _NORM_WARPS if spec.norm else _WARPS)
        self.pieces = 1 if spec.norm else -(-self.spans // self.warps)

    def emit(self) -> None:
        spec = self.spec
        n: Any = spec.tokens or symbol("n")
        self.tensors: dict[int, Any] = {}
        for stream in spec.streams:
            if stream.tensor not in self.tensors:
                self.tensors[stream.tensor] = declare(f"x{stream.tensor}", (n, stream.stride), "float32")
        self.gain, self.shift = (
            self.vector("gain", bool(spec.norm)),
            self.vector("shift", spec.norm == "layer"),
        )
        self.scale, self.signs = self.vector("scale", spec.scaled), self.vector("signs", bool(spec.block))
        self.limits = declare("limits", (spec.encoder.numbers,), "float32")
        self.counts = declare("counts", (n, spec.width), spec.encoder.dtype)
        self.theta = declare("theta", (n, spec.width // spec.encoder.group), "float32")
        with blocks("x", n) as m, blocks("y", self.pieces) as piece, threads(self.warps * WARP) as t:
            self.m, self.t = m, t
            self.lane, self.warp = let(tirx.floormod(t, WARP)), let(tirx.floordiv(t, WARP))
            mean, inverse = self.statistics()
            each = -(-self.spans // (self.warps * self.pieces))
            with loop(each) as i:
                at = let((piece * each + i) * self.warps + self.warp)
                with if_(at < self.spans), then():
                    self.encode(at * self.span, mean, inverse)

    def vector(self, name: str, wanted: bool) -> Any:
        return declare(name, (self.spec.width,), "float32") if wanted else None

    def value(self, channel: Any) -> Any:
        """The row before the norm, at a channel."""
        spec = self.spec
        values = [load(self.tensors[s.tensor], (self.m, channel + s.offset)) for s in spec.streams]
        if not spec.gate:
            return values[0]
        gate = let(values[0])
        # silu: x / (1 + e^-x) (Elfwing et al., arXiv 1702.03118)
        return gate / (const(1.0, "float32") + exp(const(0.0, "float32") - gate)) * values[1]

    def statistics(self) -> tuple[Any, Any]:
        """The mean that a layer norm subtracts, and one over the root of the mean square."""
        spec = self.spec
        if not spec.norm:
            return None, None
        size = const(spec.width, "float32")
        mean = None
        if spec.norm == "layer":
            mean = let(self.row_sum("sums", lambda c: self.value(c)) / size)

        def square(channel: Any) -> Any:
            x = self.value(channel)
            x = let(x if mean is None else x - mean)
            return x * x

        squares = self.row_sum("squares", square)
        return mean, let(const(1.0, "float32") / tirx.sqrt(squares / size + const(spec.epsilon, "float32")))

    def row_sum(self, name: str, term: Any) -> Any:
        """Sum of ``term(channel)``: per thread, then per warp, then over warps in order."""
        size = self.warps * WARP
        partial, sums = registers(1, "float32"), shared((self.warps,), "float32")
        store(partial, (0,), const(0.0, "float32"))
        with loop(-(-self.spec.width // size)) as i:
            channel = let(i * size + self.t)
            with if_(channel < self.spec.width), then():
                store(partial, (0,), load(partial, (0,)) + term(channel))
        warp_sum(partial, 0)
        with if_(self.lane.equal(0)), then():
            store(sums, (self.warp,), load(partial, (0,)))
        barrier()
        store(partial, (0,), load(sums, (0,)))
        for w in range(1, self.warps):
            store(partial, (0,), load(partial, (0,)) + load(sums, (w,)))
        return let(load(partial, (0,)))

    def encode(self, base: Any, mean: Any, inverse: Any) -> None:
        spec, group = self.spec, self.spec.encoder.group
        row = registers(registers_of(self.span), "float32")
        partly = spec.width % self.span != 0  # only where groups and blocks are smaller than a warp

        def inside(r: int) -> Any:
            return self.channel(base, r) < spec.width

        for r in range(registers_of(self.span)):
            channel = self.channel(base, r)
            if partly:
                store(row, (r,), const(0.0, "float32"))
                with if_(inside(r)), then():
                    store(row, (r,), self.prepared(channel, mean, inverse))
            else:
                store(row, (r,), self.prepared(channel, mean, inverse))
        if spec.block:
            hadamard_row(row, self.span, spec.block, self.lane)

        def write(r: int, count: Any) -> None:
            value = count.astype("int32").astype(spec.encoder.dtype)
            if partly:
                with if_(inside(r)), then():
                    store(self.counts, (self.m, self.channel(base, r)), value)
            else:
                store(self.counts, (self.m, self.channel(base, r)), value)

        def write_theta(r: int, theta: Any) -> None:
            channel = self.channel(base, r)
            leads = tirx.floormod(channel, group).equal(0)
            with if_(tirx.all(leads, inside(r)) if partly else leads), then():
                store(self.theta, (self.m, tirx.floordiv(channel, group)), theta)

        numbers = tuple(let(load(self.limits, (i,))) for i in range(spec.encoder.numbers))
        encode_row(row, self.span, spec.encoder, numbers, write, write_theta)

    def channel(self, base: Any, r: int) -> Any:
        return base + (r * WARP) + self.lane

    def prepared(self, channel: Any, mean: Any, inverse: Any) -> Any:
        """Norm, scale and signs applied."""
        x = self.value(channel)
        if inverse is not None:
            x = (x if mean is None else x - mean) * inverse * load(self.gain, (channel,))
            x = x + load(self.shift, (channel,)) if self.shift is not None else x
        if self.scale is not None:
            x = x * load(self.scale, (channel,))
        return let(x * load(self.signs, (channel,)) if self.signs is not None else x)
