"""Queries, keys and values of new tokens: rotary embedding, Hadamard, spike encode, one warp a head.

Keys and values go straight into the cache (:mod:`sdc.targets.cuda.kernels.cache`).
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from sdc.targets.cuda.emit import WARP, blocks, let, registers, threads
from sdc.targets.cuda.kernels.cache import CacheLayout
from sdc.targets.cuda.kernels.places import Places, apart_name
from sdc.targets.cuda.kernels.rows import encode_row, hadamard_row, registers_of
from sdc.targets.fused.emit import const, declare, if_, load, otherwise, prim_func, store, symbol, then
from sdc.targets.fused.specs import HeadSpec, HeadsSpec, Rotary

__all__ = ["encode_heads"]


def encode_heads(spec: HeadsSpec, *, apart: bool = False) -> tirx.PrimFunc:
    """The kernel ``(x..., position[, cos, sin][, signs...], limits, caches..., query, query_theta)``.

    x [n, stride] float32, position int64 (), signs [d] for each part with a block, limits [parts, 3] of the
    encoders. Keys and values are written to their cache and its thresholds at position + i; a query's counts
    are [n, heads, d] int8, its theta [n, heads] float32. A warp per token and head. Position and caches of
    rows that are ``apart``: see :class:`sdc.targets.cuda.kernels.places.Places`.
    """
    return prim_func(apart_name(spec.key(), apart=apart), lambda: _Kernel(spec, apart).emit())


class _Kernel:
    def __init__(self, spec: HeadsSpec, apart: bool) -> None:
        self.spec = spec
        self.n: Any = spec.tokens or symbol("n")
        self.places = Places(self.n, apart=apart)

    def emit(self) -> None:
        spec, n = self.spec, self.n
        self.tensors: dict[int, Any] = {}
        for part in spec.parts:
            at = part.source.tensor
            if at not in self.tensors:
                self.tensors[at] = declare(f"x{at}", (n, part.source.stride), "float32")
        self.places.declare()
        self.tables: tuple[Any, ...] = ()
        if spec.rotary:
            shape = (spec.rotary.length, spec.rotary.half)
            self.tables = (declare("cos", shape, "float32"), declare("sin", shape, "float32"))
        signs = [declare(f"signs_{p.role}", (p.width,), "float32") if p.block else None for p in spec.parts]
        limits = declare("limits", (len(spec.parts), 3), "float32")
        # Caches first: they are arguments that change in place, and the query's are fresh outputs.
        order = sorted(range(len(spec.parts)), key=lambda i: spec.parts[i].role == "query")
        outputs = {i: self.outputs(spec.parts[i], n) for i in order}
        heads = sum(p.heads for p in spec.parts)
        with blocks("x", n) as m, blocks("y", heads) as head, threads(WARP) as lane:
            self.m, self.lane = m, lane
            self.token, self.cache = self.places.token(m), self.places.cache(m)
            first = 0
            for i, part in enumerate(spec.parts):
                mine = tirx.all(head >= first, head < first + part.heads)
                with if_(mine), then():
                    numbers = (
                        let(load(limits, (i, 0))),
                        let(load(limits, (i, 1))),
                        let(load(limits, (i, 2))),
                    )
                    self.head(part, head - first, signs[i], numbers, outputs[i])
                first += part.heads

    def outputs(self, part: HeadSpec, n: Any) -> tuple[Any, Any]:
        if part.role == "query":
            counts = declare("query", (n, part.heads, part.width), part.encoder.dtype)
            return counts, declare("query_theta", (n, part.heads), "float32")
        layout = CacheLayout(part.heads, self.spec.slots, part.width)
        shape = layout.key_shape if part.role == "key" else layout.value_shape
        counts = declare(part.role, self.places.cached(shape), "int8")
        return counts, declare(f"{part.role}_theta", self.places.cached(layout.theta_shape), "float32")

    def head(self, part: HeadSpec, h: Any, signs: Any, numbers: Any, out: tuple[Any, Any]) -> None:
        counts, theta = out
        row = registers(registers_of(part.width), "float32")
        rotary = self.spec.rotary if part.rotary else None
        for r in range(registers_of(part.width)):
            channel = self.lane + r * WARP
            with if_(channel < part.width):
                with then():
                    x = self.rotated(part, h, channel, rotary) if rotary else self.read(part, h, channel)
                    store(row, (r,), x * load(signs, (channel,)) if signs is not None else x)
                with otherwise():
                    store(row, (r,), const(0.0, "float32"))
        if part.block:
            hadamard_row(row, part.width, part.block, self.lane)

        def write(r: int, count: Any) -> None:
            channel = self.lane + r * WARP
            with if_(channel < part.width), then():
                store(counts, self.slot(part, h, channel), count.astype("int32").astype("int8"))

        def write_theta(r: int, value: Any) -> None:
            if r == 0:
                at = (self.m, h) if part.role == "query" else (*self.cache, h, self.token)
                with if_(self.lane.equal(0)), then():
                    store(theta, at, value)

        encode_row(row, part.width, part.encoder, numbers, write, write_theta, whole=True)

    def slot(self, part: HeadSpec, h: Any, channel: Any) -> tuple[Any, ...]:
        """Where a channel's count goes."""
        if part.role == "query":
            return self.m, h, channel
        if part.role == "key":
            return *self.cache, h, self.token, channel
        return *self.cache, h, tirx.floordiv(self.token, 4), channel, tirx.floormod(self.token, 4)

    def read(self, part: HeadSpec, h: Any, channel: Any) -> Any:
        return load(self.tensors[part.source.tensor], (self.m, h * part.width + channel + part.source.offset))

    def rotated(self, part: HeadSpec, h: Any, channel: Any, rotary: Rotary) -> Any:
        """Each pair (a, b) at angle t becomes (a cos t - b sin t, b cos t + a sin t)."""
        half = rotary.half
        out = registers(1, "float32")
        store(out, (0,), self.read(part, h, channel))
        with if_(channel < 2 * half), then():
            if rotary.interleaved:
                first = tirx.floormod(channel, 2).equal(0)
                pair, step = tirx.floordiv(channel, 2), 1
            else:
                first, pair, step = channel < half, tirx.floormod(channel, half), half
            partner = let(tirx.Select(first, channel + step, channel - step))
            cos, sin = (let(load(t, (self.token, pair))) for t in self.tables)
            other = let(self.read(part, h, partner))
            mine = let(load(out, (0,)))
            turned = tirx.Select(first, mine * cos - other * sin, mine * cos + other * sin)
            store(out, (0,), turned)
        return load(out, (0,))
