"""Causal attention for a few tokens, split over the context: scores, weights, sums, output.

The counts of probabilities are relative to the largest weight of all keys, so no piece of the context can be
finished on its own. Three kernels run over (heads, pieces of 64 keys), a warp each: dot products and the
largest score of each piece; exponentials of score - max over all pieces, with the sum and the largest weight
of each piece; counts against the largest weight of all, and the integer sums of each piece. A fourth adds the
pieces and encodes the output. Maxima and integers do not depend on the split, so counts are those of one
pass; pieces past the last token do nothing. Of tokens that are ``apart`` each has a cache of its own
(:class:`sdc.targets.cuda.kernels.places.Places`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

from sdc.targets.cuda.emit import (
    WARP,
    WORD,
    blocks,
    dot4,
    exp,
    integer_bits,
    let,
    load_words,
    loop,
    registers,
    shuffle,
    shuffle_xor,
    threads,
    warp_max,
    warp_sum,
)
from sdc.targets.cuda.kernels.cache import PIECE, CacheLayout
from sdc.targets.cuda.kernels.places import Places, apart_name
from sdc.targets.cuda.kernels.rows import can_encode, encode_row, hadamard_row, registers_of
from sdc.targets.fused.emit import const, declare, if_, load, prim_func, select, store, symbol, then
from sdc.targets.fused.specs import AttentionSpec, Encoder

__all__ = [
    "LOWEST",
    "attention_mix",
    "attention_output",
    "attention_scores",
    "attention_weights",
    "can_attend",
    "capped",
    "probability_count",
]

LOWEST = -3.4028234663852886e38  # the most negative float32
STEPS = PIECE // WARP


def can_attend(spec: AttentionSpec) -> bool:
    """Whether keys are whole words, and the output's groups fit a warp."""
    encodes = spec.encoder is None or can_encode(spec.encoder.group, spec.block)
    return spec.width % WORD == 0 and encodes


def capped(spec: AttentionSpec, score: Any) -> Any:
    """c tanh(score / c), by tanh x = 1 - 2 / (e^2x + 1)."""
    if not spec.softcap:
        return score
    one, two, cap = (const(v, "float32") for v in (1.0, 2.0, spec.softcap))
    return cap * (one - two / (exp(score / cap * two) + one))


def probability_count(spec: AttentionSpec, weight: Any, theta: Any) -> Any:
    """The unsigned count of a weight, int32."""
    usable = theta > const(0.0, "float32")
    safe = select(usable, theta, const(1.0, "float32"))
    rounded = let(tirx.nearbyint(weight / safe))
    return tirx.min(rounded, const(spec.levels, "float32")).astype("int32")


class _Piece:
    """What the kernels over pieces of the context share: sizes, the visible keys, reductions over pieces."""

    def __init__(self, spec: AttentionSpec, apart: bool) -> None:
        self.spec = spec
        self.n: Any = spec.tokens or symbol("n")
        self.places = Places(self.n, apart=apart)
        self.keys = CacheLayout(spec.kv_heads, spec.slots, spec.width)
        self.values = CacheLayout(spec.kv_heads, spec.slots, spec.value_width)
        self.share = spec.heads // spec.kv_heads
        self.rows_shape = (self.n, spec.heads, self.keys.slots)
        self.pieces_shape = (self.n, spec.heads, self.keys.pieces)

    def see(self, m: Any) -> None:
        """The first and last key that token m sees, the pieces that hold them, and the cache."""
        self.last, self.cache = self.places.token(m), self.places.cache(m)
        self.first: Any = let(tirx.max(self.last - (self.spec.window - 1), 0)) if self.spec.window else 0
        self.first_piece = let(tirx.floordiv(self.first, PIECE)) if self.spec.window else 0
        self.last_piece = let(tirx.floordiv(self.last, PIECE))

    def active(self, piece: Any) -> Any:
        """Whether a piece holds a visible key."""
        return tirx.all(piece >= self.first_piece, piece <= self.last_piece)

    def seen(self, key: Any) -> Any:
        return tirx.all(key >= self.first, key <= self.last)

    def over_pieces(self, buffer: Any, m: Any, h: Any, lane: Any, *, maximum: bool) -> Any:
        """The sum or maximum over the active pieces: per lane, then over lanes."""
        dtype = str(buffer.dtype)
        total = registers(1, dtype)
        store(total, (0,), const((LOWEST if dtype == "float32" else 0) if maximum else 0, dtype))
        count = let(self.last_piece - self.first_piece + 1)
        with loop(tirx.floordiv(count + (WARP - 1), WARP)) as i:
            at = let(i * WARP + lane)
            with if_(at < count), then():
                value, mine = load(buffer, (m, h, self.first_piece + at)), load(total, (0,))
                store(total, (0,), tirx.max(mine, value) if maximum else mine + value)
        (warp_max if maximum else warp_sum)(total, 0)
        return let(load(total, (0,)))


def _kernel(step: str, spec: AttentionSpec, apart: bool, body: Callable[[_Piece], None]) -> tirx.PrimFunc:
    name = apart_name(f"attention_{step}_{spec.tokens or 'n'}_h{spec.heads}", apart=apart)
    return prim_func(name, lambda: body(_Piece(spec, apart)))


def attention_scores(spec: AttentionSpec, *, apart: bool = False) -> tirx.PrimFunc:
    """The kernel ``(q, q_theta, k, k_theta, position, scores, tops)``.

    q [n, h, d] int8, q_theta [n, h]; caches as in :mod:`sdc.targets.cuda.kernels.cache`; position int64 ();
    scores [n, h, S] float32, written for visible keys; tops [n, h, pieces], the largest of each active piece.
    A thread holds one key and meets the queries of all heads that share it.
    """
    return _kernel("scores", spec, apart, _scores)


def _scores(p: _Piece) -> None:
    spec = p.spec
    q = declare("query", (p.n, spec.heads, spec.width), "int8")
    q_theta = declare("query_theta", (p.n, spec.heads), "float32")
    k = declare("key", p.places.cached(p.keys.key_shape), "int8")
    k_theta = declare("key_theta", p.places.cached(p.keys.theta_shape), "float32")
    p.places.declare()
    scores = declare("scores", p.rows_shape, "float32")
    tops = declare("tops", p.pieces_shape, "float32")
    with (
        blocks("x", spec.kv_heads) as kv,
        blocks("y", p.keys.pieces) as piece,
        blocks("z", p.n) as m,
        threads(WARP) as lane,
    ):
        p.see(m)
        tops_held = registers(p.share, "float32")
        with if_(p.active(piece)), then():
            for s in range(p.share):
                store(tops_held, (s,), const(LOWEST, "float32"))
            with loop(STEPS) as step:
                key = let(piece * PIECE + step * WARP + lane)
                row, theta = registers(spec.width // WORD, "int32"), let(load(k_theta, (*p.cache, kv, key)))
                words = _vector(spec.width)
                for at in range(0, spec.width // WORD, words):
                    store(row, (at,), load_words(k, (*p.cache, kv, key, at * WORD), words), words)
                for s in range(p.share):
                    h = kv * p.share + s
                    factor = const(spec.scale, "float32") * load(q_theta, (m, h)) * theta
                    dot = _dot(spec, q, (m, h), row)
                    score = let(capped(spec, factor * dot.astype("float32")))
                    with if_(p.seen(key)), then():
                        store(scores, (m, h, key), score)
                        store(tops_held, (s,), tirx.max(load(tops_held, (s,)), score))
            for s in range(p.share):
                warp_max(tops_held, s)
                with if_(lane.equal(0)), then():
                    store(tops, (m, kv * p.share + s, piece), load(tops_held, (s,)))


def _dot(spec: AttentionSpec, q: Any, at: tuple[Any, Any], row: Any) -> Any:
    """One query's counts times a key's."""
    acc = registers(1, "int32")
    store(acc, (0,), const(0, "int32"))
    for word in range(spec.width // WORD):
        query = load_words(q, (*at, word * WORD), 1)
        store(acc, (0,), dot4(query, load(row, (word,)), load(acc, (0,))))
    return load(acc, (0,))


def _vector(width: int) -> int:
    """Words of one access that divide a key."""
    words = 4
    while width % (words * WORD):
        words //= 2
    return words


def attention_weights(spec: AttentionSpec, *, apart: bool = False) -> tirx.PrimFunc:
    """The kernel ``(scores, tops, v_theta, position, weights, sums, largest)``.

    weights [n, h, S] float32: e_j * v_theta_j; sums [n, h, pieces] of e_j, largest [n, h, pieces] int32: the
    bits of each piece's largest weight.
    """
    return _kernel("weights", spec, apart, _weights)


def _weights(p: _Piece) -> None:
    spec = p.spec
    scores = declare("scores", p.rows_shape, "float32")
    tops = declare("tops", p.pieces_shape, "float32")
    v_theta = declare("value_theta", p.places.cached(p.values.theta_shape), "float32")
    p.places.declare()
    weights = declare("weights", p.rows_shape, "float32")
    sums = declare("sums", p.pieces_shape, "float32")
    largest = declare("largest", p.pieces_shape, "int32")
    with (
        blocks("x", spec.heads) as h,
        blocks("y", p.keys.pieces) as piece,
        blocks("z", p.n) as m,
        threads(WARP) as lane,
    ):
        p.see(m)
        with if_(p.active(piece)), then():
            top = p.over_pieces(tops, m, h, lane, maximum=True)
            total, bits = registers(1, "float32"), registers(1, "int32")
            store(total, (0,), const(0.0, "float32"))
            store(bits, (0,), const(0, "int32"))
            with loop(STEPS) as step:
                key = let(piece * PIECE + step * WARP + lane)
                weight = registers(1, "float32")
                # A hidden key weighs nothing, whatever lies in its slot.
                store(weight, (0,), const(0.0, "float32"))
                with if_(p.seen(key)), then():
                    e = let(exp(load(scores, (m, h, key)) - top))
                    store(total, (0,), load(total, (0,)) + e)
                    store(weight, (0,), e * load(v_theta, (*p.cache, tirx.floordiv(h, p.share), key)))
                store(weights, (m, h, key), load(weight, (0,)))
                store(bits, (0,), tirx.max(load(bits, (0,)), integer_bits(load(weight, (0,)))))
            warp_sum(total, 0)
            warp_max(bits, 0)
            with if_(lane.equal(0)), then():
                store(sums, (m, h, piece), load(total, (0,)))
                store(largest, (m, h, piece), load(bits, (0,)))


def theta_of(spec: AttentionSpec, bits: Any) -> Any:
    """theta_p from the bits of the largest weight."""
    factor = const(float(np.float32(1 / spec.levels)), "float32")
    return let(tirx.reinterpret("float32", bits) * factor)


def attention_mix(spec: AttentionSpec, *, apart: bool = False) -> tirx.PrimFunc:
    """The kernel ``(weights, largest, v, position, mixed)``.

    v as in the cache; mixed [n, h, pieces, dv] int32: each active piece's sum of counts times value counts.
    """
    return _kernel("mix", spec, apart, _mix)


def _mix(p: _Piece) -> None:
    spec = p.spec
    weights = declare("weights", p.rows_shape, "float32")
    largest = declare("largest", p.pieces_shape, "int32")
    v = declare("value", p.places.cached(p.values.value_shape), "int8")
    p.places.declare()
    mixed = declare("mixed", (p.n, spec.heads, p.keys.pieces, spec.value_width), "int32")
    channels = registers_of(spec.value_width)
    with (
        blocks("x", spec.heads) as h,
        blocks("y", p.keys.pieces) as piece,
        blocks("z", p.n) as m,
        threads(WARP) as lane,
    ):
        p.see(m)
        with if_(p.active(piece)), then():
            theta = theta_of(spec, p.over_pieces(largest, m, h, lane, maximum=True))
            acc, packed = registers(channels, "int32"), registers(1, "int32")
            for r in range(channels):
                store(acc, (r,), const(0, "int32"))
            with loop(STEPS) as step:
                first = let(piece * PIECE + step * WARP)
                count = probability_count(spec, load(weights, (m, h, first + lane)), theta)
                # Four lanes put their counts into one word, which all four then hold.
                store(packed, (0,), tirx.shift_left(count, tirx.floormod(lane, WORD) * 8))
                for mask in (1, 2):
                    word = load(packed, (0,))
                    store(packed, (0,), tirx.bitwise_or(word, shuffle_xor(word, mask)))
                for word in range(WARP // WORD):
                    four = let(shuffle(load(packed, (0,)), const(word * WORD, "int32")))
                    for r in range(channels):
                        with if_(lane + r * WARP < spec.value_width), then():
                            quad = tirx.floordiv(first, WORD) + word
                            at = (*p.cache, tirx.floordiv(h, p.share), quad, lane + r * WARP, 0)
                            values = load_words(v, at, 1)
                            store(acc, (r,), dot4(four, values, load(acc, (r,)), unsigned=True))
            for r in range(channels):
                with if_(lane + r * WARP < spec.value_width), then():
                    store(mixed, (m, h, piece, lane + r * WARP), load(acc, (r,)))


def attention_output(spec: AttentionSpec, *, apart: bool = False) -> tirx.PrimFunc:
    """The kernel ``(mixed, sums, largest, position[, signs][, limits], out...)``: a warp per token and head.

    out [n, h, dv] float32, or counts [n, h * dv] and theta [n, h * dv / group] where the output is encoded.
    """
    name = apart_name(spec.key() + "_output", apart=apart)
    return prim_func(name, lambda: _Output(spec, apart).emit())


class _Output(_Piece):
    def emit(self) -> None:
        spec = self.spec
        mixed = declare("mixed", (self.n, spec.heads, self.keys.pieces, spec.value_width), "int32")
        sums = declare("sums", self.pieces_shape, "float32")
        largest = declare("largest", self.pieces_shape, "int32")
        self.places.declare()
        channels = spec.heads * spec.value_width
        signs = declare("signs", (channels,), "float32") if spec.block else None
        if spec.encoder:
            limits = declare("limits", (spec.encoder.numbers,), "float32")
            self.counts = declare("counts", (self.n, channels), spec.encoder.dtype)
            self.theta = declare("theta", (self.n, channels // spec.encoder.group), "float32")
        else:
            self.out = declare("out", (self.n, spec.heads, spec.value_width), "float32")
        with blocks("x", spec.heads) as h, blocks("y", self.n) as m, threads(WARP) as lane:
            self.see(m)
            self.m, self.h, self.lane = m, h, lane
            total = self.over_pieces(sums, m, h, lane, maximum=False)
            bits = self.over_pieces(largest, m, h, lane, maximum=True)
            factor = let(theta_of(spec, bits) / total)
            row = registers(registers_of(spec.value_width), "float32")
            for r in range(registers_of(spec.value_width)):
                store(row, (r,), const(0.0, "float32"))
                with self.inside(r):
                    acc = self.mixed_sum(mixed, r)
                    value = factor * acc.astype("float32")
                    store(row, (r,), value * load(signs, (self.channel(r),)) if signs is not None else value)
            if spec.encoder is None:
                for r in range(registers_of(spec.value_width)):
                    with self.inside(r):
                        store(self.out, (m, h, lane + r * WARP), load(row, (r,)))
                return
            if spec.block:
                hadamard_row(row, spec.value_width, spec.block, lane)
            numbers = tuple(let(load(limits, (i,))) for i in range(spec.encoder.numbers))
            self.encode(row, spec.encoder, numbers)

    def channel(self, r: int) -> Any:
        """The channel among all heads'."""
        return self.h * self.spec.value_width + self.lane + r * WARP

    def inside(self, r: int) -> Any:
        """Opens the condition that a register holds a channel of the head."""
        return _if_then(self.lane + r * WARP < self.spec.value_width)

    def mixed_sum(self, mixed: Any, r: int) -> Any:
        acc = registers(1, "int32")
        store(acc, (0,), const(0, "int32"))
        with loop(self.last_piece - self.first_piece + 1) as i:
            at = (self.m, self.h, self.first_piece + i, self.lane + r * WARP)
            store(acc, (0,), load(acc, (0,)) + load(mixed, at))
        return load(acc, (0,))

    def encode(self, row: Any, encoder: Encoder, numbers: Any) -> None:
        def write(r: int, count: Any) -> None:
            with self.inside(r):
                store(self.counts, (self.m, self.channel(r)), count.astype("int32").astype(encoder.dtype))

        def write_theta(r: int, theta: Any) -> None:
            leads = tirx.floormod(self.channel(r), encoder.group).equal(0)
            with self.inside(r), _if_then(leads):
                store(self.theta, (self.m, tirx.floordiv(self.channel(r), encoder.group)), theta)

        encode_row(row, self.spec.value_width, encoder, numbers, write, write_theta)


class _if_then:
    """``with if_(c), then():`` as one context."""

    def __init__(self, condition: Any) -> None:
        self.outer, self.inner = if_(condition), then()

    def __enter__(self) -> None:
        self.outer.__enter__()
        self.inner.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self.inner.__exit__(*exception)
        self.outer.__exit__(*exception)
