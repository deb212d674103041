"""The likeliest token, of all logits or of shares of them that several workers hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sdc.targets.cuda.emit import (
    WARP,
    barrier,
    blocks,
    integer_bits,
    let,
    loop,
    registers,
    shared,
    shuffle_xor,
    store_scalar,
    threads,
)
from sdc.targets.fused.emit import const, declare, if_, load, prim_func, store, then

__all__ = ["INFINITY", "Likeliest", "LikeliestOfShare", "LikeliestOfShares", "order"]

_SEARCHERS = 1024
INFINITY = 0x7F800000
"""What :func:`order` gives at least where a float is NaN or infinite."""


@dataclass(frozen=True)
class Likeliest:
    """The next token of greedy decoding, chosen on the device: only its number has to reach the host."""

    vocab: int

    def key(self) -> str:
        """A name for the kernel."""
        return f"likeliest_{self.vocab}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(logits [1, V] float32, token [1, 1] int64, position () int64)``.

        ``token`` becomes the number of the largest logit, the first of equals, or -1 where a logit is NaN or
        infinite; ``position`` moves on by one. One block.
        """
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        logits = declare("logits", (1, self.vocab), "float32")
        token = declare("token", (1, 1), "int64")
        position = declare("position", (), "int64")
        with blocks("x", 1), threads(_SEARCHERS) as t:
            best, place = _search(logits, self.vocab, const(self.vocab, "int32"), t)
            with if_(t.equal(0)), then():
                _finish(best, place, token, position)


@dataclass(frozen=True)
class LikeliestOfShare:
    """The largest logit of a worker's share of the vocabulary, for all workers to compare.

    Attributes:
        rows: Of a share; the last worker's may reach beyond the vocabulary.
    """

    vocab: int
    rows: int
    workers: int

    def key(self) -> str:
        """A name for the kernel."""
        return f"likeliest_of_share_{self.rows}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(logits [1, rows] float32, worker [1] int32, best [workers, 2] int32)``.

        The worker's row of ``best`` becomes an integer that orders the logit, and its token; the others 0. So
        the sum over workers has the row of each. One block.
        """
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        logits = declare("logits", (1, self.rows), "float32")
        worker = declare("worker", (1,), "int32")
        out = declare("best", (self.workers, 2), "int32")
        with blocks("x", 1), threads(_SEARCHERS) as t:
            mine = let(load(worker, (0,)))
            first = let(mine * self.rows)
            held = let(tirx.max(tirx.min(self.vocab - first, self.rows), 0))
            best, place = _search(logits, self.rows, held, t)
            with if_(t < self.workers), then():
                own = t.equal(mine)
                zero = const(0, "int32")
                store(out, (t, 0), tirx.Select(own, load(best, (0,)), zero))
                store(out, (t, 1), tirx.Select(own, load(place, (0,)) + first, zero))


@dataclass(frozen=True)
class LikeliestOfShares:
    """The next token of greedy decoding, from what each worker's :class:`LikeliestOfShare` found."""

    workers: int

    def key(self) -> str:
        """A name for the kernel."""
        return f"likeliest_of_shares_{self.workers}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(best [workers, 2] int32, token [1, 1] int64, position () int64)``; as
        :class:`Likeliest`."""
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        found = declare("best", (self.workers, 2), "int32")
        token = declare("token", (1, 1), "int64")
        position = declare("position", (), "int64")
        with blocks("x", 1), threads(WARP) as t, if_(t.equal(0)), then():
            best, place = registers(1, "int32"), registers(1, "int32")
            store(best, (0,), load(found, (0, 0)))
            store(place, (0,), load(found, (0, 1)))
            for worker in range(1, self.workers):
                _take(best, place, let(load(found, (worker, 0))), let(load(found, (worker, 1))))
            _finish(best, place, token, position)


def order(value: Any) -> Any:
    """An integer that orders floats: their bits, negative ones turned round; infinities and NaN above all."""
    bits = let(integer_bits(value))
    magnitude = let(bits & const(0x7FFFFFFF, "int32"))
    ordered = tirx.Select(bits >= const(0, "int32"), bits, const(0, "int32") - magnitude)
    return let(tirx.Select(magnitude >= const(INFINITY, "int32"), magnitude, ordered))


def _search(logits: Any, width: int, held: Any, t: Any) -> tuple[Any, Any]:
    """(order, place) of the largest of ``held`` of ``width`` logits, the first of equals, in all
    threads; -2^31 and ``width`` where none is held."""
    warps = _SEARCHERS // WARP
    keys, places = shared((warps,), "int32"), shared((warps,), "int32")
    best, place = registers(1, "int32"), registers(1, "int32")
    store(best, (0,), const(-(2**31), "int32"))
    store(place, (0,), const(width, "int32"))
    with loop(-(-width // _SEARCHERS)) as i:
        at = let(i * _SEARCHERS + t)
        with if_(at < held), then():
            _take(best, place, order(load(logits, (0, at))), at)
    _reduce(best, place, WARP)
    lane, warp = let(tirx.floormod(t, WARP)), let(tirx.floordiv(t, WARP))
    with if_(lane.equal(0)), then():
        store(keys, (warp,), load(best, (0,)))
        store(places, (warp,), load(place, (0,)))
    barrier()
    store(best, (0,), load(keys, (lane,)))
    store(place, (0,), load(places, (lane,)))
    _reduce(best, place, warps)
    return best, place


def _finish(best: Any, place: Any, token: Any, position: Any) -> None:
    """The next token, or -1 where a logit is no number; the position moves on. One thread."""
    bad = load(best, (0,)) >= const(INFINITY, "int32")
    found = tirx.Select(bad, const(-1, "int32"), load(place, (0,)))
    store(token, (0, 0), found.astype("int64"))
    store_scalar(position, position[()] + 1)


def _take(best: Any, place: Any, key: Any, at: Any) -> None:
    """Keeps the larger key, the lower place of equals."""
    mine, where = let(load(best, (0,))), let(load(place, (0,)))
    better = tirx.any(key > mine, tirx.all(key.equal(mine), at < where))
    with if_(better), then():
        store(best, (0,), key)
        store(place, (0,), at)


def _reduce(best: Any, place: Any, lanes: int) -> None:
    mask = 1
    while mask < lanes:
        key, at = let(shuffle_xor(load(best, (0,)), mask)), let(shuffle_xor(load(place, (0,)), mask))
        _take(best, place, key, at)
        mask *= 2
