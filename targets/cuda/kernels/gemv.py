"""Spike accumulation and readout for one token: a warp reads whole weight rows, byte products by dp4a.

Every lane takes 16 (8, 4) neighbouring bytes of a row, so a warp reads 512 bytes in one access. The lanes of
a group add their integers by shuffles: accumulators are exact; then (theta * scale) * float32(acc) is summed
over groups, in a lane by ascending group and over lanes at the end.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from sdc.targets.cuda.emit import (
    WARP,
    WORD,
    blocks,
    dot4,
    let,
    load_words,
    loop,
    registers,
    threads,
    warp_sum,
)
from sdc.targets.cuda.kernels.linear import Operands, declare_operands, finished, scale_at, unpack
from sdc.targets.fused.emit import const, if_, load, prim_func, store, symbol, then
from sdc.targets.fused.specs import LinearSpec

__all__ = ["spike_gemv"]

_WARPS = 4


def spike_gemv(spec: LinearSpec) -> tirx.PrimFunc:
    """The kernel on :class:`sdc.targets.cuda.kernels.linear.Operands`, a warp per few rows and token."""
    return prim_func(spec.key(), lambda: _Kernel(spec).emit())


class _Kernel:
    def __init__(self, spec: LinearSpec) -> None:
        self.spec = spec
        per_word = 4 if spec.bits == 8 else 8
        words = 4
        while spec.group % (per_word * words):
            words //= 2
        self.words = words  # 32-bit words of weights a lane and step
        self.channels = words * per_word
        lanes = spec.group // self.channels
        self.packed = lanes <= WARP and lanes & (lanes - 1) == 0  # groups lie side by side in a warp
        self.lanes = lanes
        # Rows that a warp works on at once read the counts once; few rows want many warps instead.
        self.rows = 4 if spec.rows >= 8192 else 2 if spec.rows >= 2048 else 1

    def emit(self) -> None:
        spec = self.spec
        n: Any = spec.tokens or symbol("n")
        self.operands: Operands = declare_operands(spec, n)
        with (
            blocks("x", -(-spec.rows // (self.rows * _WARPS))) as block,
            blocks("y", n) as m,
            threads(_WARPS * WARP) as t,
        ):
            self.m, self.lane = m, let(tirx.floormod(t, WARP))
            first = let((block * _WARPS + tirx.floordiv(t, WARP)) * self.rows)
            self.row = [first + i for i in range(self.rows)]
            # Rows past the last are computed from the last and not written.
            self.safe = [let(tirx.min(r, spec.rows - 1)) for r in self.row]
            self.acc, self.total = registers(self.rows, "int32"), registers(self.rows, "float32")
            self.spikes = registers(self.channels // WORD, "int32")
            self.weights = registers(max(2, self.channels // WORD), "int32")
            for i in range(self.rows):
                store(self.total, (i,), const(0.0, "float32"))
            if self.packed:
                self.side_by_side()
            else:
                self.one_by_one()

    def side_by_side(self) -> None:
        """Whole groups in neighbouring lanes: every step takes 32 / lanes groups."""
        spec = self.spec
        steps = spec.width // self.channels
        with loop(-(-steps // WARP)) as i:
            step = let(i * WARP + self.lane)
            self.clear()
            with if_(step < steps), then():
                self.accumulate(step)
            self.reduce(last=self.lanes)
            group = let(tirx.floordiv(step, self.lanes))
            leads = tirx.all(step < steps, tirx.floormod(step, self.lanes).equal(0))
            with if_(leads), then():
                self.read_out(group)
        if not spec.raw:
            for r in range(self.rows):
                warp_sum(self.total, r, first=self.lanes)
            self.write()

    def one_by_one(self) -> None:
        """Groups that no power of two lanes share: the whole warp takes one after the other."""
        with loop(self.spec.width // self.spec.group) as group:
            self.clear()
            with loop(-(-self.lanes // WARP)) as i:
                step = let(i * WARP + self.lane)
                with if_(step < self.lanes), then():
                    self.accumulate(group * self.lanes + step)
            self.reduce(last=WARP)
            with if_(self.lane.equal(0)), then():
                self.read_out(group)
        if not self.spec.raw:
            self.write()

    def clear(self) -> None:
        for r in range(self.rows):
            store(self.acc, (r,), const(0, "int32"))

    def reduce(self, last: int) -> None:
        for r in range(self.rows):
            warp_sum(self.acc, r, last=last)

    def accumulate(self, step: Any) -> None:
        """One lane's channels of every row."""
        spec, count = self.spec, self.channels // WORD
        for at in range(0, count, 4):
            width = min(4, count - at)
            words = load_words(self.operands.counts, (self.m, step * self.channels + at * WORD), width)
            store(self.spikes, (at,), words, width)
        for r in range(self.rows):
            if spec.bits == 8:
                words = load_words(self.operands.weight, (self.safe[r], step * self.channels), self.words)
                store(self.weights, (0,), words, self.words)
            else:
                packed = registers(self.words, "int32")
                words = load(self.operands.weight, (self.safe[r], step * self.words), self.words)
                store(packed, (0,), words, self.words)
                for w in range(self.words):
                    unpack(self.weights, 2 * w, load(packed, (w,)))
            for w in range(count):
                products = dot4(
                    load(self.spikes, (w,)),
                    load(self.weights, (w,)),
                    load(self.acc, (r,)),
                    unsigned=spec.unsigned,
                )
                store(self.acc, (r,), products)

    def read_out(self, group: Any) -> None:
        """total += (theta * scale) * float(acc), or the accumulators themselves."""
        spec = self.spec
        groups = spec.width // spec.group
        for r in range(self.rows):
            acc = load(self.acc, (r,))
            if spec.raw:
                with if_(self.row[r] < spec.rows), then():
                    store(self.operands.out, (self.m, group, self.row[r]), acc)
                continue
            theta = load(self.operands.theta, (self.m, tirx.floordiv(group * spec.theta_groups, groups)))
            scale = scale_at(self.operands, self.safe[r], tirx.floordiv(group * spec.scale_groups, groups))
            term = theta * scale * acc.astype("float32")
            store(self.total, (r,), load(self.total, (r,)) + term)

    def write(self) -> None:
        for r in range(self.rows):
            inside = tirx.all(self.lane.equal(0), self.row[r] < self.spec.rows)
            with if_(inside), then():
                total = finished(self.operands, load(self.total, (r,)), self.m, self.row[r])
                store(self.operands.out, (self.m, self.row[r]), total)
