"""Weights of tokens, as :mod:`sdc.ir.drawing` defines them, and what the choice of a token has to know.

Two kernels, for several rows of logits at once, both with a block for each piece of the vocabulary: the
largest logit of each piece; then weights, and of each piece how many lie above some cuts, and their sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sdc.ir.drawing import weight_bits
from sdc.ir.float32 import EXP_COEFFICIENTS, EXP_LN2, EXP_LOG2E, EXP_RANGE
from sdc.targets.cuda.emit import blocks, let, registers, threads
from sdc.targets.cuda.kernels.across import Across
from sdc.targets.cuda.kernels.likeliest import order
from sdc.targets.fused.emit import const, declare, if_, load, prim_func, select, store, symbol, then

__all__ = ["CUTS", "PIECE", "LogitTops", "TokenWeights", "largest", "least_weights", "pieces_of"]

Expr = Any

PIECE = 1024
"""Tokens of a piece of the vocabulary."""

CUTS = (7, 13, None)
"""Bits by which cuts lie below the likeliest token's weight; above the last one is all that is not 0."""

_WEIGHERS = 256  # threads


def pieces_of(vocab: int) -> int:
    """Pieces of a vocabulary."""
    return -(-vocab // PIECE)


@dataclass(frozen=True)
class LogitTops:
    """The largest logit of each piece.

    Attributes:
        width: Of a row of logits, which may be longer.
    """

    vocab: int
    width: int

    def key(self) -> str:
        """A name for the kernel."""
        return f"logit_tops_{self.width}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(logits [n, width] float32, tops [n, pieces] int32)``; integers order the logits."""
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        n, pieces = symbol("n"), pieces_of(self.vocab)
        logits = declare("logits", (n, self.width), "float32")
        tops = declare("tops", (n, pieces), "int32")
        with blocks("x", pieces) as piece, blocks("y", n) as row, threads(_WEIGHERS) as t:
            top = registers(1, "int32")
            store(top, (0,), const(-(2**31), "int32"))
            for i in range(PIECE // _WEIGHERS):
                at = let(piece * PIECE + i * _WEIGHERS + t)
                with if_(at < self.vocab), then():
                    store(top, (0,), tirx.max(load(top, (0,)), order(load(logits, (row, at)))))
            found = Across(t, _WEIGHERS).maximum(load(top, (0,)))
            with if_(t.equal(0)), then():
                store(tops, (row, piece), found)


@dataclass(frozen=True)
class TokenWeights:
    """Weights of tokens; attributes as :class:`LogitTops`."""

    vocab: int
    width: int

    def key(self) -> str:
        """A name for the kernel."""
        return f"token_weights_{self.width}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(logits [n, width] float32, tops [n, pieces] int32, settings [n, 3] float64, weights
        [n, vocab] float32, masses [n, 3, pieces] int64, counts [n, 3, pieces] int32)``.

        Settings begin with the reciprocal of the temperature; where it is 0, only the likeliest tokens weigh
        anything. Masses and counts are of the weights above each of three cuts.
        """
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        n, pieces, cuts = symbol("n"), pieces_of(self.vocab), len(CUTS)
        bits = weight_bits(self.vocab)
        logits = declare("logits", (n, self.width), "float32")
        tops = declare("tops", (n, pieces), "int32")
        settings = declare("settings", (n, 3), "float64")
        weights = declare("weights", (n, self.vocab), "float32")
        masses = declare("masses", (n, cuts, pieces), "int64")
        counts = declare("counts", (n, cuts, pieces), "int32")
        with blocks("x", pieces) as piece, blocks("y", n) as row, threads(_WEIGHERS) as t:
            across = Across(t, _WEIGHERS)
            top = _float_of(largest(across, tops, row, pieces, t, _WEIGHERS))
            inverse = let(load(settings, (row, 0)).astype("float32"))
            mass, count = registers(cuts, "int64"), registers(cuts, "int64")
            for cut in range(cuts):
                store(mass, (cut,), const(0, "int64"))
                store(count, (cut,), const(0, "int64"))
            for i in range(PIECE // _WEIGHERS):
                at = let(piece * PIECE + i * _WEIGHERS + t)
                with if_(at < self.vocab), then():
                    weight = _weigh(let(load(logits, (row, at)) - top), inverse, bits)
                    store(weights, (row, at), weight)
                    for cut, least in enumerate(least_weights(bits)):
                        with if_(weight >= const(least, "float32")), then():
                            store(mass, (cut,), load(mass, (cut,)) + weight.astype("int64"))
                            store(count, (cut,), load(count, (cut,)) + const(1, "int64"))
            for cut in range(cuts):
                whole, number = across.sum(load(mass, (cut,))), across.sum(load(count, (cut,)))
                with if_(t.equal(0)), then():
                    store(masses, (row, cut, piece), whole)
                    store(counts, (row, cut, piece), number.astype("int32"))


def least_weights(bits: int) -> list[float]:
    """The smallest weight above each cut, where the likeliest token weighs 2^bits."""
    return [1.0 if cut is None else 2.0 ** max(0, bits - cut) for cut in CUTS]


def largest(across: Across, tops: Any, row: Expr, pieces: int, t: Expr, count: int) -> Expr:
    """The largest of a row's tops, in all threads."""
    top = registers(1, "int32")
    store(top, (0,), const(-(2**31), "int32"))
    for first in range(0, pieces, count):
        with if_(first + t < pieces), then():
            store(top, (0,), tirx.max(load(top, (0,)), load(tops, (row, first + t))))
    return across.maximum(load(top, (0,)))


def _weigh(below: Expr, inverse: Expr, bits: int) -> Expr:
    """The weight of a logit that lies so much above the largest: an integer in float32."""
    zero, most = const(0.0, "float32"), const(2.0**bits, "float32")
    likeliest = let(select(below.equal(zero), most, zero))
    drawn = let(tirx.nearbyint(_exp(let(below * inverse)) * most))
    return let(select(inverse.equal(zero), likeliest, drawn))


def _float_of(ordered: Expr) -> Expr:
    """The float of an :func:`sdc.targets.cuda.kernels.likeliest.order`."""
    turned = let((const(0, "int32") - ordered) | const(-(2**31), "int32"))
    bits = let(tirx.Select(ordered >= const(0, "int32"), ordered, turned))
    return let(tirx.reinterpret("float32", bits))


def _exp(x: Expr) -> Expr:
    """The bits of :func:`sdc.ir.float32.exp`: every operation is rounded on its own."""

    def number(value: float) -> Expr:
        return const(value, "float32")

    low, high = (number(end) for end in EXP_RANGE)
    inside = let(select(x < low, low, select(x > high, high, x)))
    n = let(tirx.nearbyint(inside * number(EXP_LOG2E)))
    r = let(inside - n * number(EXP_LN2[0]) - n * number(EXP_LN2[1]))
    y = number(EXP_COEFFICIENTS[0])
    for coefficient in EXP_COEFFICIENTS[1:]:
        y = let(y * r + number(coefficient))
    y = let(y * r * r + r + number(1.0))
    whole = let(n.astype("int32"))
    half = let(tirx.shift_right(whole, const(1, "int32")))
    return let(y * _power_of_two(half) * _power_of_two(let(whole - half)))


def _power_of_two(n: Expr) -> Expr:
    return tirx.reinterpret("float32", tirx.shift_left(n + const(127, "int32"), const(23, "int32")))
