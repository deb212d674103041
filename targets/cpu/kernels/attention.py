"""Causal attention over the integer cache: both products are exact sums of integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx

from sdc.targets.cpu.dot import ByteSums, divisor, dot4
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
    reduce_add,
    reduce_smax,
    scratch,
    select,
    store,
    symbol,
)
from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.kernels.cache import LINE, load_words, prefetch
from sdc.targets.cpu.kernels.rows import encode_row, exp, exps, hadamard_row, lane_sums, sum_lanes
from sdc.targets.cpu.layout import KEY_BLOCK, KEY_OFFSET, CacheLayout
from sdc.targets.fused.specs import AttentionSpec

__all__ = ["AttentionSpec", "heads_together", "spike_attention"]

# Heads of one key head that a task attends together: it reads keys and values once for all of them.
_TOGETHER = 4
_MOST_TOGETHER = 8

# Words of a key in straight code.
_STRAIGHT = 4

# How far ahead of its use a line is asked for, while decoding: a kibibyte of keys, two of values.
_KEYS_AHEAD = 1 << 10
_VALUES_AHEAD = 1 << 11


def spike_attention(spec: AttentionSpec, isa: Isa) -> tirx.PrimFunc:
    """The kernel ``(q, q_theta, k, k_theta, v, v_theta, position[, signs][, limits], out...)``.

    q [n, h, d] int8, q_theta [n, h] float32, caches as in :mod:`sdc.targets.cpu.layout`, position
    int64 (); out [n, h, dv] float32, or counts [n, h * dv] and theta [n, h * dv / group] where the output is
    encoded. Parallel over queries and heads, but for those heads that are attended together.
    """
    return prim_func(spec.key(), lambda: _Kernel(spec, isa).emit())


def heads_together(heads: int, kv_heads: int) -> int:
    """How many query heads of one key head a task takes: a divisor of theirs, at most some registers full.

    One task alone would leave all threads but one idle.
    """
    group = heads // kv_heads
    most = _TOGETHER if kv_heads > 1 else min(_TOGETHER, group // 2)
    found = divisor(group, most)
    return group if found == 1 and group <= _MOST_TOGETHER and kv_heads > 1 else found


class _Kernel:
    def __init__(self, spec: AttentionSpec, isa: Isa) -> None:
        self.spec, self.isa, self.lanes = spec, isa, isa.lanes
        self.keys = CacheLayout(spec.kv_heads, spec.slots, spec.width)
        self.values = CacheLayout(spec.kv_heads, spec.slots, spec.value_width)
        self.together = heads_together(spec.heads, spec.kv_heads)
        # Accumulators that leave some registers for operands.
        self.registers = 28 if isa.lanes == 16 or isa.name.startswith("aarch64") else 12

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
        parts = spec.heads // self.together
        with loop(n * parts, parallel=True) as task:
            self.attend(let(tirx.floordiv(task, parts)), let(tirx.floormod(task, parts) * self.together))

    def attend(self, m: Any, h: Any) -> None:
        """One query of some heads, from head ``h`` on."""
        spec = self.spec
        self.m, self.h = m, h
        self.kv = let(tirx.floordiv(h, spec.heads // spec.kv_heads))
        self.last = let(self.position[()] + m)
        first = tirx.max(self.last - (spec.window - 1), 0) if spec.window else None
        self.first = None if first is None else let(first)
        self.first_block = 0 if first is None else let(tirx.floordiv(self.first, KEY_BLOCK))
        self.blocks = let(tirx.floordiv(self.last, KEY_BLOCK) + 1 - self.first_block)
        self.work = scratch((self.together, self.keys.slots), "float32")
        self.probabilities = scratch((self.together, self.keys.slots), "uint8")
        # Of each head: largest score, sum of exponentials, threshold of the probabilities.
        self.tops, self.totals, self.shares = (local(self.together, "float32") for _ in range(3))
        self.load_queries()
        self.score()
        self.weigh()
        with loop(self.together) as head:
            self.encode_probabilities(head)
        self.mix()

    def load_queries(self) -> None:
        """Each query's counts as whole words, and the correction for the keys' offset."""
        spec, words = self.spec, self.keys.words
        self.query = local(self.together * words * 4, "int8")
        self.correction = []
        lanes = divisor(words, self.lanes)
        for head in range(self.together):
            start = head * words * 4
            with loop(spec.width) as d:
                store(self.query, (start + d,), load(self.q, (self.m, self.h + head, d)))
            for pad in range(spec.width, words * 4):
                store(self.query, (start + pad,), const(0, "int8"))
            total = local(lanes, "int32")
            store(total, (0,), const(0, "int32", lanes), lanes)
            with loop(words // lanes) as i:
                counts = load(self.query, (start + i * 4 * lanes,), 4 * lanes)
                signed = tirx.reinterpret(lane_type("int32", lanes), counts)
                ones, before = const(0x01010101, "int32", lanes), load(total, (0,), lanes)
                store(total, (0,), dot4(self.isa, before, ones, signed, lanes, pair=2 * 128), lanes)
            self.correction.append(let(reduce_add(load(total, (0,), lanes)) * const(-KEY_OFFSET, "int32")))

    def each_key_vector(self, body: Callable[[Any, int], None]) -> None:
        """Calls ``body(first token, its place in the block)`` for every visible vector of tokens."""
        with loop(self.blocks) as i:
            token = let((self.first_block + i) * KEY_BLOCK)
            for part in range(0, KEY_BLOCK, self.lanes):
                body(token + part, part)

    def score(self) -> None:
        """Scores of all visible keys into ``work``, their maxima into ``top``."""
        lanes, heads = self.lanes, range(self.together)
        best = [local(lanes, "float32") for _ in heads]
        for head in heads:
            store(best[head], (0,), const(-3.4028234663852886e38, "float32", lanes), lanes)
        scale = const(self.spec.scale, "float32")
        factors = [let(scale * load(self.q_theta, (self.m, self.h + head))) for head in heads]
        at_once = divisor(KEY_BLOCK // lanes, max(1, self.registers // (2 * self.together)))
        with loop(self.blocks) as i:
            block = let(self.first_block + i)
            for part in range(0, KEY_BLOCK, lanes * at_once):
                slots = range(part, part + lanes * at_once, lanes)
                dots = self.dots(block, slots)
                for slot, of_slot in zip(slots, dots, strict=True):
                    token = let(block * KEY_BLOCK + slot)
                    theta, seen = let(load(self.k_theta, (self.kv, token), lanes)), self.seen(token)
                    for head, sums in enumerate(of_slot):
                        counts = load(sums, (0,), lanes).astype(lane_type("float32", lanes))
                        score = let(self.capped(broadcast(factors[head], lanes) * theta * counts))
                        score = let(select(seen, score, const(float("-inf"), "float32", lanes)))
                        store(self.work, (head, token), score, lanes)
                        before = let(load(best[head], (0,), lanes))
                        store(best[head], (0,), select(score > before, score, before), lanes)
        for head in heads:
            values = [load(best[head], (lane,)) for lane in range(lanes)]
            while len(values) > 1:
                values = [let(tirx.max(a, b)) for a, b in zip(values[::2], values[1::2], strict=True)]
            store(self.tops, (head,), values[0])

    def dots(self, block: Any, slots: Sequence[int]) -> list[list[Any]]:
        """Query times key for some vectors of tokens and every head: arrays of int32 [slot][head]."""
        lanes, heads, words = self.lanes, range(self.together), self.keys.words
        arrays = [[local(lanes, "int32") for _ in heads] for _ in slots]
        pair = 2 * self.spec.query_levels * 255
        sums = [[ByteSums(self.isa, array, 0, lanes, pair) for array in of_slot] for of_slot in arrays]
        for of_slot in sums:
            for head in heads:
                of_slot[head].set(broadcast(self.correction[head], lanes))
        step = divisor(words, _STRAIGHT)
        with loop(words // step) as i:
            for word in (i * step + part for part in range(step)):
                if self.spec.tokens == 1 and slots[0] == 0:
                    prefetch(self.k, (self.kv, block, word + _KEYS_AHEAD // LINE, 0, 0))
                keys = [let(load_words(self.k, (self.kv, block, word, slot, 0), lanes)) for slot in slots]
                for head in heads:
                    quad = load(self.query, (head * words * 4 + word * 4,), 4)
                    spikes = broadcast(tirx.reinterpret("int32", quad), lanes)
                    for of_slot, key in zip(sums, keys, strict=True):
                        of_slot[head].add(key, spikes)
            for vector in (v for of_slot in sums for v in of_slot):
                vector.flush()
        return arrays

    def capped(self, score: Any) -> Any:
        """c tanh(score / c), by tanh x = 1 - 2 / (e^2x + 1)."""
        if not self.spec.softcap:
            return score
        lanes = self.lanes
        one, two = const(1.0, "float32", lanes), const(2.0, "float32", lanes)
        cap = const(self.spec.softcap, "float32", lanes)
        return cap * (one - two / (exp(score / cap * two, lanes) + one))

    def seen(self, token: Any) -> Any:
        """Which tokens from ``token`` on are visible."""
        lanes = self.lanes
        lane = tirx.Ramp(tirx.const(0, "int32"), tirx.const(1, "int32"), lanes)
        visible = lane <= broadcast((self.last - token).astype("int32"), lanes)
        if self.first is not None:
            from_first = lane >= broadcast((self.first - token).astype("int32"), lanes)
            visible = tirx.bitwise_and(visible, from_first)
        return visible

    def weigh(self) -> None:
        """exp(score - max) times V's threshold into ``work``; the exponentials' sums and theta_p."""
        lanes, heads = self.lanes, range(self.together)
        totals, largest = [lane_sums(lanes) for _ in heads], [local(lanes, "int32") for _ in heads]
        tops = [let(load(self.tops, (head,))) for head in heads]
        for head in heads:
            store(largest[head], (0,), const(0, "int32", lanes), lanes)

        def body(token: Any, slot: int) -> None:
            self.fetch_values(token, slot)
            theta = let(load(self.v_theta, (self.kv, token), lanes))
            scores = [load(self.work, (head, token), lanes) - broadcast(tops[head], lanes) for head in heads]
            for head, e in enumerate(let(e) for e in exps(scores, lanes)):
                self.weigh_one(head, token, e, theta, largest[head])
                store(totals[head], (slot,), load(totals[head], (slot,), lanes) + e, lanes)

        self.each_key_vector(body)
        factor = const(float(np.float32(1 / self.spec.levels)), "float32")
        for head in heads:
            top_weight = tirx.reinterpret("float32", reduce_smax(load(largest[head], (0,), lanes)))
            store(self.totals, (head,), sum_lanes(totals[head]))
            store(self.shares, (head,), top_weight * factor)

    def weigh_one(self, head: int, token: Any, e: Any, theta: Any, largest: Any) -> None:
        """Stores the weights of some keys, and keeps the largest."""
        lanes, zero = self.lanes, const(0.0, "float32", self.lanes)
        # A hidden key weighs nothing, whatever an earlier conversation left in its slot.
        weight = let(select(e <= zero, zero, let(e * theta)))
        store(self.work, (head, token), weight, lanes)
        bits = tirx.reinterpret(lane_type("int32", lanes), weight)
        store(largest, (0,), tirx.max(load(largest, (0,), lanes), bits), lanes)

    def fetch_values(self, token: Any, slot: int) -> None:
        """Brings a block's values into the cache, while exponentials leave the memory idle."""
        lines = -(-KEY_BLOCK * self.values.channels // LINE)
        for number in range(slot // self.lanes, lines, KEY_BLOCK // self.lanes):
            prefetch(self.v, (self.kv, tirx.floordiv(token - slot, 4), number * (LINE // 4), 0))

    def encode_probabilities(self, head: Any) -> None:
        lanes = self.lanes
        theta = let(load(self.shares, (head,)))
        usable = theta > const(0.0, "float32")
        safe = let(tirx.Select(usable, theta, const(1.0, "float32")))

        def body(token: Any, _: int) -> None:
            rounded = let(tirx.nearbyint(load(self.work, (head, token), lanes) / broadcast(safe, lanes)))
            counts = tirx.min(rounded, const(self.spec.levels, "float32", lanes))
            as_bytes = counts.astype(lane_type("int32", lanes)).astype(lane_type("uint8", lanes))
            store(self.probabilities, (head, token), as_bytes, lanes)

        self.each_key_vector(body)

    def mix(self) -> None:
        """Probability counts times value counts, then the outputs (encoded where asked)."""
        lanes, heads, channels = self.lanes, range(self.together), self.values.channels
        rows = [local(channels, "float32") for _ in heads]
        factors = [let(load(self.shares, (head,)) / load(self.totals, (head,))) for head in heads]
        vectors = divisor(channels // lanes, max(1, self.registers // self.together))
        for first in range(0, channels, vectors * lanes):
            places = range(first, first + vectors * lanes, lanes)
            for head, of_head in enumerate(self.mixed(places)):
                for at, array in zip(places, of_head, strict=True):
                    sums = load(array, (0,), lanes).astype(lane_type("float32", lanes))
                    store(rows[head], (at,), broadcast(factors[head], lanes) * sums, lanes)
        for head in heads:
            self.write(rows[head], self.h + head)

    def mixed(self, places: Sequence[int]) -> list[list[Any]]:
        """Some vectors of value channels for every head: arrays of int32 [head][place]."""
        lanes, heads = self.lanes, range(self.together)
        arrays = [[local(lanes, "int32") for _ in places] for _ in heads]
        pair = 2 * self.spec.levels * (self.spec.value_levels + 1)
        sums = [[ByteSums(self.isa, array, 0, lanes, pair) for array in of_head] for of_head in arrays]
        for vector in (v for of_head in sums for v in of_head):
            vector.set(const(0, "int32", lanes))
        ahead = -(-_VALUES_AHEAD // (4 * self.values.channels))
        with loop(self.blocks * (KEY_BLOCK // 4)) as i:
            quad = let(self.first_block * (KEY_BLOCK // 4) + i)
            for line in range(places[0], places[-1] + 1, LINE // 4) if self.spec.tokens == 1 else ():
                prefetch(self.v, (self.kv, quad + ahead, line, 0))
            values = [let(load_words(self.v, (self.kv, quad, at, 0), lanes)) for at in places]
            for head in heads:
                counts = tirx.reinterpret("int32", load(self.probabilities, (head, quad * 4), 4))
                spikes = let(broadcast(counts, lanes))
                for vector, value in zip(sums[head], values, strict=True):
                    vector.add(spikes, value)
            for vector in (v for of_head in sums for v in of_head):
                vector.flush()
        return arrays

    def write(self, row: Any, head: Any) -> None:
        spec = self.spec
        if spec.encoder is None:
            with loop(spec.value_width) as d:
                store(self.out, (self.m, head, d), load(row, (d,)))
            return
        encoder, base = spec.encoder, head * spec.value_width
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
            lambda g, value: store(self.theta, (self.m, head * groups + g), value),
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
