"""Causal attention over the integer cache: both products are exact sums of integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

from sdc.targets.cpu.dot import dot4
from sdc.targets.cpu.emit import (
    broadcast,
    const,
    declare,
    lane_type,
    let,
    load,
    local,
    loop,
    prim_func,
    reduce_smax,
    scratch,
    select,
    store,
    symbol,
)
from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.kernels.cache import load_words
from sdc.targets.cpu.kernels.rows import encode_row, exp, hadamard_row, lane_sums, sum_lanes
from sdc.targets.cpu.layout import KEY_BLOCK, KEY_OFFSET, CacheLayout
from sdc.targets.fused.specs import AttentionSpec

__all__ = ["AttentionSpec", "spike_attention"]

# Larger work arrays than this come from the heap, not from a thread's stack.
_STACK_BYTES = 1 << 18


def spike_attention(spec: AttentionSpec, isa: Isa) -> tirx.PrimFunc:
    """The kernel ``(q, q_theta, k, k_theta, v, v_theta, position[, signs][, limits], out...)``.

    q [n, h, d] int8, q_theta [n, h] float32, caches as in :mod:`sdc.targets.cpu.layout`, position
    int64 (); out [n, h, dv] float32, or counts [n, h * dv] and theta [n, h * dv / group] where the output is
    encoded. Parallel over queries and heads.
    """
    return prim_func(spec.key(), lambda: _Kernel(spec, isa).emit())


class _Kernel:
    def __init__(self, spec: AttentionSpec, isa: Isa) -> None:
        self.spec, self.isa, self.lanes = spec, isa, isa.lanes
        self.keys = CacheLayout(spec.kv_heads, spec.slots, spec.width)
        self.values = CacheLayout(spec.kv_heads, spec.slots, spec.value_width)

    def emit(self) -> None:
        spec = self.spec
        n: Any = spec.tokens or symbol("n")
        self.q = declare("query", (n, spec.heads, spec.width), "int8")
        self.q_theta = declare("query_theta", (n, spec.heads), "float32")
        self.k = declare("key", self.keys.key_shape, "uint8")
        self.k_theta = declare("key_theta", self.keys.theta_shape, "float32")
        self.v = declare("value", self.values.value_shape, "int8")
        self.v_theta = declare("value_theta", self.values.theta_shape, "float32")
        self.position = declare("position", (), "int64")
        channels = spec.heads * spec.value_width
        self.signs = declare("signs", (channels,), "float32") if spec.block else None
        if spec.encoder:
            self.numbers = declare("limits", (spec.encoder.numbers,), "float32")
            self.counts = declare("counts", (n, channels), spec.encoder.dtype)
            self.theta = declare("theta", (n, channels // spec.encoder.group), "float32")
        else:
            self.out = declare("out", (n, spec.heads, spec.value_width), "float32")
        with loop(n * spec.heads, parallel=True) as task:
            self.attend(let(tirx.floordiv(task, spec.heads)), let(tirx.floormod(task, spec.heads)))

    def attend(self, m: Any, h: Any) -> None:
        """One query of one head."""
        spec = self.spec
        self.m, self.h = m, h
        self.kv = let(tirx.floordiv(h, spec.heads // spec.kv_heads))
        self.last = let(self.position[()] + m)
        first = tirx.max(self.last - (spec.window - 1), 0) if spec.window else None
        self.first = None if first is None else let(first)
        self.first_block = 0 if first is None else let(tirx.floordiv(self.first, KEY_BLOCK))
        self.blocks = let(tirx.floordiv(self.last, KEY_BLOCK) + 1 - self.first_block)
        self.work = self.work_array("float32", 4)
        self.probabilities = self.work_array("uint8", 1)
        self.load_query()
        top = self.score()
        total, theta = self.weigh(top)
        self.encode_probabilities(theta)
        self.mix(total, theta)

    def work_array(self, dtype: str, size: int) -> Any:
        slots = self.keys.slots
        return local(slots, dtype) if slots * size <= _STACK_BYTES else scratch((slots,), dtype)

    def load_query(self) -> None:
        """The query's counts as whole words, and the correction for the keys' offset."""
        spec, words = self.spec, self.keys.words
        self.query = local(words * 4, "int8")
        total = local(1, "int32")
        store(total, (0,), const(0, "int32"))
        for pad in range(spec.width, words * 4):
            store(self.query, (pad,), const(0, "int8"))
        with loop(spec.width) as d:
            count = let(load(self.q, (self.m, self.h, d)))
            store(self.query, (d,), count)
            store(total, (0,), load(total, (0,)) + count.astype("int32"))
        self.correction = let(load(total, (0,)) * const(-KEY_OFFSET, "int32"))

    def each_key_vector(self, body: Callable[[Any, Any, int], None]) -> None:
        """Calls ``body(block, first token, its place in the block)`` for every visible vector of tokens."""
        with loop(self.blocks) as i:
            block = let(self.first_block + i)
            for part in range(0, KEY_BLOCK, self.lanes):
                body(block, block * KEY_BLOCK + part, part)

    def score(self) -> Any:
        """Scores of all visible keys into ``work``; returns their maximum."""
        lanes = self.lanes
        top = local(lanes, "float32")
        lowest = const(-3.4028234663852886e38, "float32", lanes)
        store(top, (0,), lowest, lanes)
        factor = let(const(self.spec.scale, "float32") * load(self.q_theta, (self.m, self.h)))

        def body(block: Any, token: Any, slot: int) -> None:
            dots = self.dots(block, slot)
            theta = load(self.k_theta, (self.kv, token), lanes)
            score = broadcast(factor, lanes) * theta * dots.astype(lane_type("float32", lanes))
            score = let(self.capped(score))
            score = let(select(self.seen(token), score, const(float("-inf"), "float32", lanes)))
            store(self.work, (token,), score, lanes)
            best = let(load(top, (0,), lanes))
            store(top, (0,), select(score > best, score, best), lanes)

        self.each_key_vector(body)
        values = [load(top, (lane,)) for lane in range(lanes)]
        while len(values) > 1:
            values = [let(tirx.max(a, b)) for a, b in zip(values[::2], values[1::2], strict=True)]
        return let(values[0])

    def dots(self, block: Any, slot: Any) -> Any:
        lanes = self.lanes
        acc = local(lanes, "int32")
        store(acc, (0,), broadcast(self.correction, lanes), lanes)
        narrow = 2 * self.spec.query_levels * 255 <= 32767
        with loop(self.keys.words) as word:
            spikes = broadcast(tirx.reinterpret("int32", load(self.query, (word * 4,), 4)), lanes)
            keys = load_words(self.k, (self.kv, block, word, slot, 0), lanes)
            store(
                acc, (0,), dot4(self.isa, load(acc, (0,), lanes), keys, spikes, lanes, narrow=narrow), lanes
            )
        return load(acc, (0,), lanes)

    def capped(self, score: Any) -> Any:
        """c tanh(score / c), by tanh x = 1 - 2 / (e^2x + 1)."""
        if not self.spec.softcap:
            return score
        lanes = self.lanes
        one, two = const(1.0, "float32", lanes), const(2.0, "float32", lanes)
        cap = const(self.spec.softcap, "float32", lanes)
        return cap * (one - two / (exp(score / cap * two, lanes) + one))

    def seen(self, token: Any) -> Any:
        at = tirx.Ramp(token, tirx.const(1, token.ty.dtype), self.lanes)
        visible = at <= broadcast(self.last, self.lanes)
        if self.first is not None:
            visible = tirx.bitwise_and(visible, at >= broadcast(self.first, self.lanes))
        return visible

    def weigh(self, top: Any) -> tuple[Any, Any]:
        """exp(score - max) times V's threshold into ``work``; returns the exponentials' sum and theta_p."""
        lanes = self.lanes
        total, largest = lane_sums(lanes), local(lanes, "int32")
        zero = const(0.0, "float32", lanes)
        store(largest, (0,), const(0, "int32", lanes), lanes)

        def body(_: Any, token: Any, slot: int) -> None:
            e = let(exp(load(self.work, (token,), lanes) - broadcast(top, lanes), lanes))
            store(total, (slot,), load(total, (slot,), lanes) + e, lanes)
            weighted = let(e * load(self.v_theta, (self.kv, token), lanes))
            # A hidden key weighs nothing, whatever an earlier conversation left in its slot.
            weight = let(select(e <= zero, zero, weighted))
            store(self.work, (token,), weight, lanes)
            bits = tirx.reinterpret(lane_type("int32", lanes), weight)
            store(largest, (0,), tirx.max(load(largest, (0,), lanes), bits), lanes)

        self.each_key_vector(body)
        factor = const(float(np.float32(1 / self.spec.levels)), "float32")
        top_weight = tirx.reinterpret("float32", reduce_smax(load(largest, (0,), lanes)))
        return sum_lanes(total), let(top_weight * factor)

    def encode_probabilities(self, theta: Any) -> None:
        lanes = self.lanes
        usable = theta > const(0.0, "float32")
        safe = let(tirx.Select(usable, theta, const(1.0, "float32")))

        def body(_: Any, token: Any, __: int) -> None:
            rounded = let(tirx.nearbyint(load(self.work, (token,), lanes) / broadcast(safe, lanes)))
            counts = tirx.min(rounded, const(self.spec.levels, "float32", lanes))
            as_bytes = counts.astype(lane_type("int32", lanes)).astype(lane_type("uint8", lanes))
            store(self.probabilities, (token,), as_bytes, lanes)

        self.each_key_vector(body)

    def mix(self, total: Any, theta: Any) -> None:
        """Probability counts times value counts, then the output (encoded where asked)."""
        spec, lanes = self.spec, self.lanes
        vectors = self.values.channels // lanes
        acc = local(self.values.channels, "int32")
        for v in range(vectors):
            store(acc, (v * lanes,), const(0, "int32", lanes), lanes)
        narrow = 2 * spec.levels * (spec.value_levels + 1) <= 32767
        with loop(self.blocks * (KEY_BLOCK // 4)) as i:
            quad = let(self.first_block * (KEY_BLOCK // 4) + i)
            counts = tirx.reinterpret("int32", load(self.probabilities, (quad * 4,), 4))
            spikes = let(broadcast(counts, lanes))
            for v in range(vectors):
                value = load_words(self.v, (self.kv, quad, v * lanes, 0), lanes)
                at = (v * lanes,)
                store(
                    acc, at, dot4(self.isa, load(acc, at, lanes), spikes, value, lanes, narrow=narrow), lanes
                )
        factor = let(theta / total)
        row = local(self.values.channels, "float32")
        for v in range(vectors):
            sums = load(acc, (v * lanes,), lanes).astype(lane_type("float32", lanes))
            store(row, (v * lanes,), broadcast(factor, lanes) * sums, lanes)
        self.write(row)

    def write(self, row: Any) -> None:
        spec = self.spec
        if spec.encoder is None:
            with loop(spec.value_width) as d:
                store(self.out, (self.m, self.h, d), load(row, (d,)))
            return
        encoder, base = spec.encoder, self.h * spec.value_width
        if spec.block:
            hadamard_row(row, spec.value_width, _Offset(self.signs, base), spec.block, self.lanes)
        groups = spec.value_width // encoder.group
        encode_row(
            row,
            spec.value_width,
            encoder,
            self.numbers,
            self.lanes,
            lambda at, value, width: store(
                self.counts, (self.m, base + at), value.astype(lane_type(encoder.dtype, width)), width
            ),
            lambda g, value: store(self.theta, (self.m, self.h * groups + g), value),
        )


class _Offset:
    """A buffer seen from an offset of its last axis."""

    def __init__(self, buffer: Any, base: Any) -> None:
        self.buffer, self.base = buffer, base

    def __getitem__(self, index: tuple[Any, ...]) -> Any:
        (at,) = index
        if isinstance(at, tirx.Ramp):
            return self.buffer[tirx.Ramp(self.base + at.base, at.stride, at.lanes)]
        return self.buffer[self.base + at]
