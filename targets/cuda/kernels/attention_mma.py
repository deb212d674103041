"""Causal attention for many tokens: a warp takes 16 queries of one head, both products on the tensor cores.

The counts of probabilities are relative to the largest weight of all keys, so a warp sweeps over its keys
three times and computes the scores anew each time, which costs less than keeping them: for the largest score;
for the sum of exponentials and the largest weight; for the counts, which meet the values at once. Counts are
those of the reference: maxima, exponentials and integer sums do not depend on the order.

No data pass between lanes: the keys of a tile are taken in such an order (:meth:`_Kernel.key_of`) that a
lane's results of the first product are four neighbouring tokens, the bytes that it must give to the second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from sdc.targets.cuda.emit import (
    MMA_K,
    WARP,
    WORD,
    blocks,
    exp,
    integer_bits,
    let,
    load_words,
    loop,
    mma,
    registers,
    shuffle_xor,
    threads,
    unrolled,
)
from sdc.targets.cuda.kernels.attention import LOWEST, capped, probability_count, theta_of
from sdc.targets.cuda.kernels.cache import CacheLayout
from sdc.targets.fused.emit import const, declare, if_, load, prim_func, select, store, symbol, then
from sdc.targets.fused.specs import AttentionSpec

__all__ = ["attention_mma", "can_attend_mma"]

_QUERIES, _WARPS = 16, 4
# Widest value head whose sums fit the registers of a lane.
_WIDEST = 128


def can_attend_mma(spec: AttentionSpec) -> bool:
    """Whether heads are whole steps of the tensor cores."""
    return spec.width % MMA_K == 0 and spec.value_width % 8 == 0 and spec.value_width <= _WIDEST


def attention_mma(spec: AttentionSpec) -> tirx.PrimFunc:
    """The kernel ``(q, q_theta, k, k_theta, v, v_theta, position, out)``.

    q [n, h, d] int8, q_theta [n, h] float32, caches as in :mod:`sdc.targets.cuda.kernels.cache`, position
    int64 (); out [n, h, dv] float32. The specification's encoder is another kernel's.
    """
    return prim_func(f"attention_mma_{spec.tokens or 'n'}_h{spec.heads}", lambda: _Kernel(spec).emit())


class _Kernel:
    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec
        self.n: Any = spec.tokens or symbol("n")
        self.share = spec.heads // spec.kv_heads
        self.steps = spec.width // MMA_K

    def emit(self) -> None:
        spec = self.spec
        keys = CacheLayout(spec.kv_heads, spec.slots, spec.width)
        values = CacheLayout(spec.kv_heads, spec.slots, spec.value_width)
        self.q = declare("query", (self.n, spec.heads, spec.width), "int8")
        self.q_theta = declare("query_theta", (self.n, spec.heads), "float32")
        self.k = declare("key", keys.key_shape, "int8")
        self.k_theta = declare("key_theta", keys.theta_shape, "float32")
        self.v = declare("value", values.value_shape, "int8")
        self.v_theta = declare("value_theta", values.theta_shape, "float32")
        self.position = declare("position", (), "int64")
        self.out = declare("out", (self.n, spec.heads, spec.value_width), "float32")
        tile = _QUERIES * _WARPS
        with (
            blocks("x", tirx.floordiv(self.n + tile - 1, tile)) as bx,
            blocks("y", spec.heads) as h,
            threads(_WARPS * WARP) as t,
        ):
            lane = let(tirx.floormod(t, WARP))
            self.quad, self.octet = let(tirx.floormod(lane, 4)), let(tirx.floordiv(lane, 4))
            self.h, self.kv = h, let(tirx.floordiv(h, self.share))
            self.first_query = let(bx * tile + tirx.floordiv(t, WARP) * _QUERIES)
            with if_(self.first_query < self.n), then():
                self.attend()

    def attend(self) -> None:
        spec = self.spec
        # The lane's two queries; one past the last is computed from the last and not written.
        self.token = [self.first_query + self.octet + 8 * half for half in range(2)]
        safe = [let(tirx.min(token, self.n - 1)) for token in self.token]
        self.last = [let(self.position[()] + token) for token in safe]
        self.factor = [
            let(const(spec.scale, "float32") * load(self.q_theta, (token, self.h))) for token in safe
        ]
        final = let(self.position[()] + tirx.min(self.first_query + (_QUERIES - 1), self.n - 1))
        start: Any = 0
        if spec.window:
            start = let(tirx.max(self.position[()] + self.first_query - (spec.window - 1), 0))
            start = let(tirx.floordiv(start, MMA_K))
        self.start, self.blocks = start, let(tirx.floordiv(final, MMA_K) + 1 - start)
        self.queries = registers(4 * self.steps, "int32")
        for step in range(self.steps):
            for part in range(4):
                at = (safe[part % 2], self.h, step * MMA_K + self.quad * WORD + 16 * (part // 2))
                store(self.queries, (4 * step + part,), load_words(self.q, at, 1))
        self.acc = registers(4, "int32")
        tops = self.sweep_tops()
        totals, thetas = self.sweep_weights(tops)
        self.sweep_counts(tops, thetas)
        self.write(totals, thetas)

    def key_of(self, block: Any, tile: int, column: Any) -> Any:
        """The key of a tile's column: tiles 2i and 2i + 1 share 16 keys, columns 2q and 2q + 1 of both are
        the keys 4q .. 4q + 3."""
        within = tirx.floordiv(column, 2) * 4 + tirx.floormod(column, 2) + (16 * (tile // 2) + 2 * (tile % 2))
        return block * MMA_K + within

    def each_score(self, block: Any, body: Callable[[int, int, Any, Any], None]) -> None:
        """Calls ``body(tile, part, key, score)`` for a lane's 16 results of 32 keys; hidden ones are -inf."""
        for tile in range(4):
            key = let(self.key_of(block, tile, self.octet))
            for part in range(4):
                store(self.acc, (part,), const(0, "int32"))
            for step in range(self.steps):
                b = [
                    load_words(self.k, (self.kv, key, step * MMA_K + self.quad * WORD + 16 * half), 1)
                    for half in range(2)
                ]
                a = [load(self.queries, (4 * step + part,)) for part in range(4)]
                mma(self.acc, 0, a, b)
            for part in range(4):
                column = let(self.key_of(block, tile, self.quad * 2 + part % 2))
                body(tile, part, column, self.score(part, column))

    def score(self, part: int, key: Any) -> Any:
        spec, half = self.spec, part // 2
        factor = self.factor[half] * load(self.k_theta, (self.kv, key))
        score = let(capped(spec, factor * load(self.acc, (part,)).astype("float32")))
        seen = key <= self.last[half]
        if spec.window:
            seen = tirx.all(seen, key > self.last[half] - spec.window)
        return let(select(seen, score, const(float("-inf"), "float32")))

    def over_blocks(self, body: Callable[[Any], None]) -> None:
        with loop(self.blocks) as i:
            body(let(self.start + i))

    def sweep_tops(self) -> list[Any]:
        """The largest score of each of the lane's queries."""
        tops = registers(2, "float32")
        for half in range(2):
            store(tops, (half,), const(LOWEST, "float32"))

        def one(_tile: int, part: int, _key: Any, score: Any) -> None:
            half = part // 2
            store(tops, (half,), tirx.max(load(tops, (half,)), score))

        self.over_blocks(lambda block: self.each_score(block, one))
        return self.over_quads(tops, tirx.max)

    def over_quads(self, values: Any, combine: Any) -> list[Any]:
        """Reduces the lane's two values over the four lanes that share its queries."""
        for half in range(2):
            for mask in (1, 2):
                mine = load(values, (half,))
                store(values, (half,), combine(mine, shuffle_xor(mine, mask)))
        return [let(load(values, (half,))) for half in range(2)]

    def weight(self, score: Any, key: Any, top: Any) -> tuple[Any, Any]:
        """e and e * v_theta; a hidden key weighs nothing, whatever lies in its slot."""
        e = let(exp(score - top))
        hidden = score.equal(const(float("-inf"), "float32"))
        return e, let(select(hidden, const(0.0, "float32"), e * load(self.v_theta, (self.kv, key))))

    def sweep_weights(self, tops: list[Any]) -> tuple[list[Any], list[Any]]:
        """The sums of exponentials and theta_p of the lane's queries."""
        totals, largest = registers(2, "float32"), registers(2, "int32")
        for half in range(2):
            store(totals, (half,), const(0.0, "float32"))
            store(largest, (half,), const(0, "int32"))

        def one(_tile: int, part: int, key: Any, score: Any) -> None:
            half = part // 2
            e, weight = self.weight(score, key, tops[half])
            store(totals, (half,), load(totals, (half,)) + e)
            store(largest, (half,), tirx.max(load(largest, (half,)), integer_bits(weight)))

        self.over_blocks(lambda block: self.each_score(block, one))
        sums = self.over_quads(totals, lambda a, b: a + b)
        return sums, [theta_of(self.spec, bits) for bits in self.over_quads(largest, tirx.max)]

    def sweep_counts(self, tops: list[Any], thetas: list[Any]) -> None:
        """Counts of 32 keys at a time, packed to bytes as they come, times the values."""
        tiles = self.spec.value_width // 8
        self.sums = registers(4 * tiles, "int32")
        packed = registers(4, "int32")
        with unrolled(4 * tiles) as i:
            store(self.sums, (i,), const(0, "int32"))

        def one(tile: int, part: int, key: Any, score: Any) -> None:
            half = part // 2
            _, weight = self.weight(score, key, tops[half])
            count = probability_count(self.spec, weight, thetas[half])
            # Operand part: rows r or r + 8, keys 0..15 or 16..31; byte: 2 of each tile of the pair.
            slot, byte = half + 2 * (tile // 2), 2 * (tile % 2) + part % 2
            bits = tirx.shift_left(count, const(8 * byte, "int32"))
            store(packed, (slot,), tirx.bitwise_or(load(packed, (slot,)), bits))

        def block(at: Any) -> None:
            for slot in range(4):
                store(packed, (slot,), const(0, "int32"))
            self.each_score(at, one)
            a = [load(packed, (slot,)) for slot in range(4)]
            for tile in range(tiles):
                channel = self.octet + 8 * tile
                b = [
                    load_words(self.v, (self.kv, at * (MMA_K // 4) + self.quad + 4 * half, channel, 0), 1)
                    for half in range(2)
                ]
                mma(self.sums, 4 * tile, a, b, unsigned=True)

        self.over_blocks(block)

    def write(self, totals: list[Any], thetas: list[Any]) -> None:
        factors = [let(theta / total) for theta, total in zip(thetas, totals, strict=True)]
        for tile in range(self.spec.value_width // 8):
            for part in range(4):
                half, channel = part // 2, self.quad * 2 + (8 * tile + part % 2)
                with if_(self.token[half] < self.n), then():
                    value = factors[half] * load(self.sums, (4 * tile + part,)).astype("float32")
                    store(self.out, (self.token[half], self.h, channel), value)
