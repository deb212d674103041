"""Rows of tables: embedding, the last token's counts before the head, and the likeliest token after it."""

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
from sdc.targets.fused.emit import const, declare, if_, load, prim_func, store, symbol, then

__all__ = ["GatherRows", "LastRow", "Likeliest"]

_THREADS = 128


@dataclass(frozen=True)
class GatherRows:
    """Rows by index: table [rows, width] float32; ``tokens`` indices, 0 where symbolic."""

    rows: int
    width: int
    tokens: int = 0

    def key(self) -> str:
        """A name for the kernel."""
        return f"gather_rows_{self.tokens or 'n'}x{self.width}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(table [rows, width], index [n] int64, out [n, width])``; indices are clipped."""
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        n: Any = self.tokens or symbol("n")
        table = declare("table", (self.rows, self.width), "float32")
        index = declare("index", (n,), "int64")
        out = declare("out", (n, self.width), "float32")
        with blocks("x", n) as m, blocks("y", -(-self.width // _THREADS)) as part, threads(_THREADS) as t:
            channel = let(part * _THREADS + t)
            with if_(channel < self.width), then():
                row = let(tirx.min(tirx.max(index[m], 0), self.rows - 1))
                store(out, (m, channel), load(table, (row, channel)))


@dataclass(frozen=True)
class LastRow:
    """The last token's counts and thresholds: row widths and the counts' dtype."""

    dtype: str
    width: int
    groups: int

    def key(self) -> str:
        """A name for the kernel."""
        return f"last_row_{self.width}"

    def generate(self) -> tirx.PrimFunc:
        """The kernel ``(counts [n, K], theta [n, G], counts [1, K], theta [1, G])``."""
        return prim_func(self.key(), self._emit)

    def _emit(self) -> None:
        n = symbol("n")
        counts = declare("counts", (n, self.width), self.dtype)
        theta = declare("theta", (n, self.groups), "float32")
        last_counts = declare("last_counts", (1, self.width), self.dtype)
        last_theta = declare("last_theta", (1, self.groups), "float32")
        with blocks("x", -(-self.width // _THREADS)) as block, threads(_THREADS) as t:
            at = let(block * _THREADS + t)
            with if_(at < self.width), then():
                store(last_counts, (0, at), load(counts, (n - 1, at)))
            with if_(at < self.groups), then():
                store(last_theta, (0, at), load(theta, (n - 1, at)))


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
        size = 1024
        warps = size // WARP
        logits = declare("logits", (1, self.vocab), "float32")
        token = declare("token", (1, 1), "int64")
        position = declare("position", (), "int64")
        with blocks("x", 1), threads(size) as t:
            keys, places = shared((warps,), "int32"), shared((warps,), "int32")
            best, place = registers(1, "int32"), registers(1, "int32")
            store(best, (0,), const(-(2**31), "int32"))
            store(place, (0,), const(self.vocab, "int32"))
            with loop(-(-self.vocab // size)) as i:
                at = let(i * size + t)
                with if_(at < self.vocab), then():
                    _take(best, place, _order(load(logits, (0, at))), at)
            _reduce(best, place, WARP)
            lane, warp = let(tirx.floormod(t, WARP)), let(tirx.floordiv(t, WARP))
            with if_(lane.equal(0)), then():
                store(keys, (warp,), load(best, (0,)))
                store(places, (warp,), load(place, (0,)))
            barrier()
            store(best, (0,), load(keys, (lane,)))
            store(place, (0,), load(places, (lane,)))
            _reduce(best, place, warps)
            with if_(t.equal(0)), then():
                bad = load(best, (0,)) >= const(_INFINITY, "int32")
                found = tirx.Select(bad, const(-1, "int32"), load(place, (0,)))
                store(token, (0, 0), found.astype("int64"))
                store_scalar(position, position[()] + 1)


_INFINITY = 0x7F800000


def _order(value: Any) -> Any:
    """An integer that orders floats: their bits, negative ones turned round; infinities and NaN above all."""
    bits = let(integer_bits(value))
    magnitude = let(bits & const(0x7FFFFFFF, "int32"))
    ordered = tirx.Select(bits >= const(0, "int32"), bits, const(0, "int32") - magnitude)
    return let(tirx.Select(magnitude >= const(_INFINITY, "int32"), magnitude, ordered))


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
