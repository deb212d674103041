"""Sums, maxima and prefix sums over all threads of a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from sdc.targets.cuda.emit import (
    WARP,
    barrier,
    let,
    registers,
    shared,
    shuffle,
    warp_max,
    warp_sum,
)
from sdc.targets.fused.emit import const, if_, load, store, then

__all__ = ["Across"]

Expr = Any


class Across:
    """What threads of a block know of each other's numbers; all of them must take part.

    Args:
        t: The thread's number.
        threads: A power of two of warps.
    """

    def __init__(self, t: Expr, threads: int) -> None:
        self.warps = threads // WARP
        self.lane, self.warp = let(tirx.floormod(t, WARP)), let(tirx.floordiv(t, WARP))
        self.parts: dict[str, Any] = {}  # a number of each warp

    def sum(self, value: Expr) -> Expr:
        """The sum of an int64, in all threads."""
        return self._reduced(value, warp_sum)

    def maximum(self, value: Expr) -> Expr:
        """The largest of an int32, in all threads."""
        return self._reduced(value, warp_max)

    def before(self, value: Expr) -> Expr:
        """The sum of an int64 over the threads before."""
        own, held = registers(1, "int64"), registers(1, "int64")
        store(own, (0,), value)
        store(held, (0,), load(own, (0,)))
        zero, mask = const(0, "int64"), 1
        while mask < WARP:
            other = let(shuffle(load(held, (0,)), tirx.max(self.lane - mask, 0)))
            store(held, (0,), load(held, (0,)) + tirx.Select(self.lane >= mask, other, zero))
            mask *= 2
        parts = self._gather(load(held, (0,)), WARP - 1, "int64")
        store(held, (0,), load(held, (0,)) - load(own, (0,)))
        for warp in range(self.warps - 1):
            part = let(load(parts, (warp,)))
            store(held, (0,), load(held, (0,)) + tirx.Select(self.warp > warp, part, zero))
        return let(load(held, (0,)))

    def _reduced(self, value: Expr, reduce: Callable[..., None]) -> Expr:
        dtype = str(value.ty.dtype)
        held = registers(1, dtype)
        store(held, (0,), value)
        reduce(held, 0)
        parts = self._gather(load(held, (0,)), 0, dtype)
        store(held, (0,), load(parts, (let(tirx.floormod(self.lane, self.warps)),)))
        reduce(held, 0, last=self.warps)
        return let(load(held, (0,)))

    def _gather(self, value: Expr, lane: int, dtype: str) -> Any:
        """An array of what one lane of each warp has."""
        if dtype not in self.parts:
            self.parts[dtype] = shared((self.warps,), dtype)
        barrier()  # all have read what the array held before
        with if_(self.lane.equal(lane)), then():
            store(self.parts[dtype], (self.warp,), value)
        barrier()
        return self.parts[dtype]
