"""Drawing a token on the device: :func:`sdc.ir.drawing.draw`, with sums of integers in parallel.

The last of three kernels (:mod:`sdc.targets.cuda.kernels.weigh` has the others). A uniform number and the
settings come from the host, and only tokens go there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from sdc.ir.drawing import weight_bits
from sdc.targets.cuda.emit import (
    barrier,
    blocks,
    count_bits,
    integer_bits,
    let,
    loop,
    registers,
    shared,
    store_scalar,
    threads,
    vote,
    while_,
)
from sdc.targets.cuda.kernels.across import Across
from sdc.targets.cuda.kernels.likeliest import INFINITY
from sdc.targets.cuda.kernels.weigh import CUTS, PIECE, largest, least_weights, pieces_of
from sdc.targets.fused.emit import const, declare, if_, load, prim_func, store, symbol, then

__all__ = ["MOST_TOKENS", "DrawToken"]

Expr = Any

_THREADS = 512
MOST_TOKENS = PIECE * _THREADS
"""Of a vocabulary: there is a thread for each piece."""


@dataclass(frozen=True)
class DrawToken:
    """A token of each row by its weights, of at most :data:`MOST_TOKENS`."""

    vocab: int

    def key(self) -> str:
        """A name for the kernel."""
        return f"draw_token_{self.vocab}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(weights, masses, counts, tops, settings, token [n, 1] int64, position () int64, found
        [n, vocab] float32, tokens [n, vocab] int32)``; the first ones as the kernels before have them.

        Settings are completed by top-p and a uniform number. ``token`` becomes the token, or -1 where a logit
        is NaN or infinite; ``position`` moves on by one; ``found`` and ``tokens`` are the kernel's own.
        """
        return prim_func(self.key(), lambda: _Drawing(self.vocab).emit())


class _Drawing:
    def __init__(self, vocab: int) -> None:
        self.vocab, self.pieces, self.bits = vocab, pieces_of(vocab), weight_bits(vocab)
        n, cuts = symbol("n"), len(CUTS)
        self.n = n
        self.weights = declare("weights", (n, vocab), "float32")
        self.masses = declare("masses", (n, cuts, self.pieces), "int64")
        self.counts = declare("counts", (n, cuts, self.pieces), "int32")
        self.tops = declare("tops", (n, self.pieces), "int32")
        self.settings = declare("settings", (n, 3), "float64")
        self.token = declare("token", (n, 1), "int64")
        self.position = declare("position", (), "int64")
        self.found = declare("found", (n, vocab), "float32")
        self.tokens = declare("tokens", (n, vocab), "int32")

    def emit(self) -> None:
        """The kernel's body."""
        with blocks("x", self.n) as row, threads(_THREADS) as t:
            self.row, self.t, self.across = row, t, Across(t, _THREADS)
            self.least = registers(1, "float32")  # weight of a candidate
            self.mine = registers(1, "int32")  # tokens that the thread's piece has among the candidates
            self.starts = shared((_THREADS,), "int32")
            self.sizes = shared((_THREADS,), "int32")
            top_p, uniform = (let(load(self.settings, (row, i))) for i in (1, 2))
            whole = let(top_p >= const(1.0, "float64"))
            totals = [self.across.sum(self.of_piece(self.masses, cut)) for cut in range(len(CUTS))]
            wanted = let(tirx.ceil(top_p * totals[-1].astype("float64")).astype("int64"))
            drawn = self.pass_pieces(let((uniform * totals[-1].astype("float64")).astype("int64")))
            self.cut_off(whole, wanted, totals)
            number = self.collect()
            threshold = self.threshold(whole, wanted, number)
            self.draw(whole, wanted, uniform, drawn, threshold, number)
            bad = largest(self.across, self.tops, row, self.pieces, t, _THREADS) >= INFINITY
            with if_(tirx.all(t.equal(0), bad)), then():
                store(self.token, (row, 0), const(-1, "int64"))
            with if_(tirx.all(t.equal(0), row.equal(0))), then():
                store_scalar(self.position, self.position[()] + 1)

    def of_piece(self, array: Any, cut: Any) -> Expr:
        """What the thread's piece has, 0 where it has none."""
        held = registers(1, str(array.dtype))
        store(held, (0,), const(0, str(array.dtype)))
        with if_(self.t < self.pieces), then():
            store(held, (0,), load(array, (self.row, cut, self.t)))
        return let(load(held, (0,)))

    def pass_pieces(self, drawn: Expr) -> Expr:
        """Of a draw from all tokens: whether the thread's piece has it, as ``self.hit``; what is left of the
        mass there, in all threads."""
        own = self.of_piece(self.masses, len(CUTS) - 1)
        before = self.across.before(own)
        self.hit = let(tirx.all(before <= drawn, drawn < before + own))
        left = tirx.Select(self.hit, drawn - before, const(0, "int64"))
        return self.across.sum(left)

    def cut_off(self, whole: Expr, wanted: Expr, totals: list[Expr]) -> None:
        """Chooses the candidates: those above the highest cut that leaves enough, or one piece of all."""
        cut = let(
            tirx.Select(
                tirx.any(whole, totals[1] < wanted),
                const(2, "int32"),
                tirx.Select(totals[0] < wanted, const(1, "int32"), const(0, "int32")),
            )
        )
        for index, least in enumerate(least_weights(self.bits)):
            with if_(cut.equal(index)), then():
                store(self.least, (0,), const(least, "float32"))
        count = self.of_piece(self.counts, cut)
        aside = tirx.all(whole, tirx.Not(self.hit))
        store(self.mine, (0,), tirx.Select(aside, const(0, "int32"), count))

    def collect(self) -> Expr:
        """Candidates and their weights in the order of their numbers; how many they are."""
        mine = let(load(self.mine, (0,)))
        start = self.across.before(mine.astype("int64"))
        store(self.starts, (self.t,), start.astype("int32"))
        store(self.sizes, (self.t,), mine)
        number = let(self.across.sum(mine.astype("int64")).astype("int32"))
        warps, lanes = self.across.warps, _THREADS // self.across.warps
        lower = let(tirx.shift_left(const(1, "int32"), self.across.lane) - 1)
        least = let(load(self.least, (0,)))
        with loop(-(-self.pieces // warps)) as i:
            piece = let(i * warps + self.across.warp)
            size = let(load(self.sizes, (piece,)))
            with if_(size > 0), then():
                filled = registers(1, "int32")
                store(filled, (0,), load(self.starts, (piece,)))
                with loop(PIECE // lanes) as step:
                    at = let(piece * PIECE + step * lanes + self.across.lane)
                    weight = registers(1, "float32")
                    store(weight, (0,), const(0.0, "float32"))
                    with if_(at < self.vocab), then():
                        store(weight, (0,), load(self.weights, (self.row, at)))
                    taken = let(load(weight, (0,)) >= least)
                    votes = let(vote(taken))
                    place = let(load(filled, (0,)) + count_bits(votes & lower))
                    with if_(taken), then():
                        store(self.found, (self.row, place), load(weight, (0,)))
                        store(self.tokens, (self.row, place), at)
                    store(filled, (0,), load(filled, (0,)) + count_bits(votes))
        barrier()
        return number

    def threshold(self, whole: Expr, wanted: Expr, number: Expr) -> Expr:
        """Bits of the largest weight such that those from it on have the mass; 0 in a draw from all.

        Weights are not negative: their bits are in the order of their values.
        """
        low, high = registers(1, "int32"), registers(1, "int32")
        store(low, (0,), tirx.Select(whole, const(0, "int32"), let(integer_bits(load(self.least, (0,))))))
        above = const(_bits(2.0**self.bits) + 1, "int32")
        store(high, (0,), tirx.Select(whole, const(1, "int32"), above))
        with while_(load(high, (0,)) - load(low, (0,)) > 1):
            bottom, top = let(load(low, (0,))), let(load(high, (0,)))
            middle = let(bottom + tirx.shift_right(top - bottom, const(1, "int32")))
            enough = let(self.mass_from(middle, number) >= wanted)
            store(low, (0,), tirx.Select(enough, middle, bottom))
            store(high, (0,), tirx.Select(enough, top, middle))
        return let(load(low, (0,)))

    def mass_from(self, bits: Expr, number: Expr) -> Expr:
        """Of the candidates whose weights have at least these bits."""
        mass = registers(1, "int64")
        store(mass, (0,), const(0, "int64"))
        with loop(tirx.floordiv(number + (_THREADS - 1), _THREADS)) as i:
            at = let(i * _THREADS + self.t)
            with if_(at < number), then():
                weight = let(load(self.found, (self.row, at)))
                with if_(integer_bits(weight) >= bits), then():
                    store(mass, (0,), load(mass, (0,)) + weight.astype("int64"))
        return self.across.sum(load(mass, (0,)))

    def draw(
        self, whole: Expr, wanted: Expr, uniform: Expr, left: Expr, threshold: Expr, number: Expr
    ) -> None:
        """Every thread adds up some neighbours; the one whose share is hit looks for the token."""
        zero = const(0, "int64")
        above = self.mass_from(let(threshold + 1), number)
        each = _held(tirx.reinterpret("float32", threshold).astype("int64"))
        divisor = _held(tirx.max(each, const(1, "int64")))
        ties = _held(tirx.floordiv(wanted - above + divisor - 1, divisor))
        mass = _held(above + ties * each)
        drawn = _held(tirx.Select(whole, left, (uniform * mass.astype("float64")).astype("int64")))
        share = let(tirx.floordiv(number + (_THREADS - 1), _THREADS))
        first, end = let(self.t * share), let(tirx.min((self.t + 1) * share, number))
        own, equal = registers(1, "int64"), registers(1, "int64")
        store(own, (0,), zero)
        store(equal, (0,), zero)
        with loop(tirx.max(end - first, 0)) as i:
            weight = let(load(self.found, (self.row, first + i)))
            with if_(integer_bits(weight) > threshold), then():
                store(own, (0,), load(own, (0,)) + weight.astype("int64"))
            with if_(integer_bits(weight).equal(threshold)), then():
                store(equal, (0,), load(equal, (0,)) + const(1, "int64"))
        seen = self.across.before(load(equal, (0,)))
        kept = let(tirx.min(seen + load(equal, (0,)), ties) - tirx.min(seen, ties))
        store(own, (0,), load(own, (0,)) + kept * each)
        before = self.across.before(load(own, (0,)))
        rest, spare = registers(1, "int64"), registers(1, "int64")
        store(rest, (0,), drawn - before)
        store(spare, (0,), let(ties - tirx.min(seen, ties)))
        with if_(tirx.all(before <= drawn, drawn < before + load(own, (0,)))), then():
            self.walk(first, end, threshold, rest, spare)

    def walk(self, first: Expr, end: Expr, threshold: Expr, rest: Any, spare: Any) -> None:
        """One thread: the token at which the rest of the drawn mass is passed."""
        zero, one, at = const(0, "int64"), const(1, "int64"), registers(1, "int32")
        store(at, (0,), first)
        with while_(tirx.all(load(rest, (0,)) >= zero, load(at, (0,)) < end)):
            here = let(load(at, (0,)))
            weight = let(load(self.found, (self.row, here)))
            is_tie = let(integer_bits(weight).equal(threshold))
            taken = tirx.any(integer_bits(weight) > threshold, tirx.all(is_tie, load(spare, (0,)) > zero))
            with if_(taken), then():
                store(self.token, (self.row, 0), load(self.tokens, (self.row, here)).astype("int64"))
                store(rest, (0,), load(rest, (0,)) - weight.astype("int64"))
                with if_(is_tie), then():
                    store(spare, (0,), load(spare, (0,)) - one)
            store(at, (0,), here + 1)


def _held(value: Expr) -> Expr:
    """Names a number whose computation must not be repeated where it is used."""
    register = registers(1, str(value.ty.dtype))
    store(register, (0,), value)
    return load(register, (0,))


def _bits(value: float) -> int:
    """Of a float32."""
    return int(np.float32(value).view(np.int32))
