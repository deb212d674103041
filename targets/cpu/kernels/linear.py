"""Spike accumulation and readout in one kernel: counts times packed integer weights, scaled to float.

Weights are stored as *unsigned* bytes (w + offset) in the order in which they are read, so that the byte dot
product of the CPU takes the signed counts as they are. sum_k (w + offset) s = sum_k w s + offset sum_k s: the
correction is one number per token and group, the same for all rows, and accumulators start at its negative.
Products and sums are exact in int32, so accumulators equal the reference bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sdc.targets.cpu.dot import QUAD, ByteSums, divisor, dot4
from sdc.targets.cpu.emit import (
    broadcast,
    const,
    declare,
    if_,
    lane_type,
    let,
    load,
    local,
    loop,
    once,
    otherwise,
    prim_func,
    reduce_add,
    rounded,
    scratch,
    store,
    symbol,
    then,
)
from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.kernels.packed import ROW_BLOCK, Packed, Streamed, Unpacked
from sdc.targets.fused import specs

__all__ = ["LinearKernel", "LinearSpec", "is_short", "spike_linear"]

# Quads of channels in straight code.
_STRAIGHT = 8

# Half of the second-level cache of two threads: unpacked weights that are larger come from the third.
_MOST_UNPACKED = 1 << 17

# Below this many weights a decode step is shorter than waking a second thread.
_SERIAL_WEIGHTS = 32768


@dataclass(frozen=True)
class LinearSpec(specs.LinearSpec):
    """A fused linear in the order in which this target packs its weights."""

    @property
    def blocks(self) -> int:
        """Packed blocks of ROW_BLOCK rows, the last one padded."""
        return -(-self.rows // ROW_BLOCK)

    @property
    def words(self) -> int:
        """32-bit words per row and group: 4, 8 or 16 weights each by their bits; padded with zero weights."""
        return -(-self.group // (QUAD * self.quads))

    @property
    def padded_group(self) -> int:
        """Channels per group after padding."""
        return self.words * QUAD * self.quads

    @property
    def quads(self) -> int:
        """Quads of channels in a word of a row."""
        return 8 // self.bits

    @property
    def offset(self) -> int:
        """What packing added to every weight."""
        return 0 if self.unsigned else 1 << (self.bits - 1)

    @property
    def pair(self) -> int:
        """The largest magnitude of two products' sum (see :func:`dot4`)."""
        return 2 * self.levels * (128 if self.unsigned else (1 << self.bits) - 1)


def spike_linear(spec: LinearSpec, isa: Isa) -> tirx.PrimFunc:
    """The kernel ``(counts, theta, weight, scale[, bias][, residual], out)``.

    counts [n, K] int8 (uint8), theta [n, Gt] float32, weight [blocks, G, words, ROW_BLOCK] int32 and
    scale [blocks, Gw, ROW_BLOCK] float32 (uint16 where short) as packed by :mod:`sdc.targets.cpu.packing`;
    bias [blocks * ROW_BLOCK], residual and out [n, N] float32. Parallel over blocks of output rows; a block's
    weights are read once per call, whatever n.
    """
    return prim_func(spec.key(), lambda: LinearKernel(spec, isa).emit())


def is_short(spec: LinearSpec) -> bool:
    """Whether one thread does the kernel sooner than two would begin it."""
    return spec.tokens == 1 and spec.rows * spec.width < _SERIAL_WEIGHTS


class LinearKernel:
    """What a kernel declares, and its readout; :meth:`run` accumulates in the collapsed form."""

    def __init__(self, spec: LinearSpec, isa: Isa) -> None:
        self.spec, self.isa = spec, isa
        self.lanes = isa.lanes
        self.vectors = ROW_BLOCK // isa.lanes
        self.n: Any = spec.tokens or symbol("n")

    def emit(self) -> None:
        spec = self.spec
        self.counts = declare("counts", (self.n, spec.width), "uint8" if spec.unsigned else "int8")
        if not spec.raw:
            self.theta = declare("theta", (self.n, spec.theta_groups), "float32")
        self.weight = self.declare_weight()
        if spec.raw:
            self.out = declare("out", (self.n, spec.groups, spec.rows), "int32")
        else:
            kind = "uint16" if spec.short_scales else "float32"
            self.scale = declare("scale", (spec.blocks, spec.scale_groups, ROW_BLOCK), kind)
            self.bias = declare("bias", (spec.blocks * ROW_BLOCK,), "float32") if spec.bias else None
            self.residual = declare("residual", (self.n, spec.rows), "float32") if spec.residual else None
            self.out = declare("out", (self.n, spec.rows), "float32")
        with once():
            self.prepare()
        self.run()

    def declare_weight(self) -> Any:
        """The packed weights."""
        spec = self.spec
        return declare("weight", (spec.blocks, spec.groups, spec.words, ROW_BLOCK), "int32")

    def run(self) -> None:
        """All blocks of rows."""
        spec = self.spec
        with loop(spec.blocks, parallel=not is_short(spec) and spec.blocks > 1) as block:
            self.block(block)

    def prepare(self) -> None:
        """Pads counts where a group is not whole words, and sums them for the correction."""
        spec = self.spec
        self.padded = spec.padded_group != spec.group
        self.packed = self.pad_counts() if self.padded else self.counts
        if spec.offset:
            self.start = scratch((self.n, spec.groups), "int32")
            with loop(self.n) as m, loop(spec.groups) as g:
                store(self.start, (m, g), const(-spec.offset, "int32") * self.group_sum(m, g))

    def pad_counts(self) -> Any:
        spec = self.spec
        padded = scratch((self.n, spec.groups * spec.padded_group), "uint8" if spec.unsigned else "int8")
        dtype = "uint8" if spec.unsigned else "int8"
        with loop(self.n) as m, loop(spec.groups) as g:
            with loop(spec.group) as k:
                store(padded, (m, g * spec.padded_group + k), load(self.counts, (m, g * spec.group + k)))
            with loop(spec.padded_group - spec.group) as k:
                store(padded, (m, g * spec.padded_group + spec.group + k), const(0, dtype))
        return padded

    def group_sum(self, m: Any, g: Any) -> Any:
        """Sum of one group's counts: a byte dot product with ones."""
        spec = self.spec
        words = spec.padded_group // 4
        lanes = self.lanes
        while words % lanes:
            lanes //= 2
        total = local(lanes, "int32")
        store(total, (0,), const(0, "int32", lanes), lanes)
        with loop(words // lanes) as i:
            at = (m, g * spec.padded_group + i * 4 * lanes)
            counts = tirx.reinterpret(lane_type("int32", lanes), load(self.packed, at, 4 * lanes))
            ones = const(0x01010101, "int32", lanes)
            store(
                total,
                (0,),
                dot4(self.isa, load(total, (0,), lanes), ones, counts, lanes, pair=2 * 128),
                lanes,
            )
        return reduce_add(load(total, (0,), lanes))

    def block(self, block: Any) -> None:
        """One block of output rows for all tokens: weights that one token meets are unpacked in registers."""
        if self.spec.tokens == 1:
            self.piece(Streamed(self, block), 0, 1)
            return
        with if_(self.n == 1):
            with then():
                self.piece(Streamed(self, block), 0, 1)
            with otherwise():
                self.tiles(block)

    def tiles(self, block: Any) -> None:
        """Weights are unpacked once, and the tokens pass in tiles; of the rest two at a time, then one."""
        most, wide = self.tile()
        with loop(self.vectors // wide) as part:
            rows = Unpacked(self, block, part * (wide * self.lanes), wide)
            done: Any = 0
            for count in sorted({most, min(most, 2), 1}, reverse=True):
                times = let(tirx.floordiv(self.n - done, count))
                with loop(times) as m:
                    self.piece(rows, done + m * count, count)
                done = done + times * count

    def tile(self) -> tuple[int, int]:
        """Tokens, and vectors of rows, that meet in registers."""
        tokens, wide = self.isa.tile
        wide = min(wide, self.vectors)
        if wide > 2 and tokens > 1 and wide * self.lanes * self.spec.width > _MOST_UNPACKED:
            return tokens * 2, wide // 2
        return tokens, wide

    def piece(self, rows: Packed, first: Any, count: int) -> None:
        """``count`` tokens times some vectors of a block's rows."""
        spec, size = self.spec, rows.wide * self.lanes
        # One small array a token: in registers, where one for all tokens would be too large for the stack.
        acc = [local(size, "int32") for _ in range(count)]
        total = [local(size, "float32") for _ in range(count if not spec.raw else 0)]
        for sums in total:
            for at in range(0, size, self.lanes):
                store(sums, (at,), const(0.0, "float32", self.lanes), self.lanes)
        pair = 1 + (count > 1 and spec.groups % 2 == 0 and not spec.raw)
        with loop(spec.groups // pair) as i:
            for half in range(pair):
                g = i * pair + half
                self.accumulate(acc, rows, first, g)
                for token in range(count):
                    if spec.raw:
                        self.write_raw(acc[token], size, rows.block, rows.row, first + token, g)
                    else:
                        self.read_out(acc[token], total[token], rows, first + token, g)
        for token, sums in enumerate(total):
            self.finish(sums, size, rows.block, rows.row, first + token)

    def accumulate(self, acc: list[Any], rows: Packed, first: Any, g: Any) -> None:
        """Accumulators of one group, one array a token."""
        spec, lanes = self.spec, self.lanes
        fitting = ByteSums.fitting(self.isa, lanes, spec.pair)
        places = range(0, rows.wide * lanes, lanes)
        sums = [[ByteSums(self.isa, array, at, lanes, spec.pair) for at in places] for array in acc]
        for token, of_token in enumerate(sums):
            start = load(self.start, (first + token, g)) if spec.offset else const(0, "int32")
            for vector in of_token:
                vector.set(broadcast(start, lanes))
        # As many quads in straight code as 16 bits can add up, and no more than keeps the code small.
        words = spec.padded_group // (QUAD * rows.quads)
        step = divisor(words, min(_STRAIGHT, fitting) // rows.quads)
        with loop(words // step) as i:
            for word in range(step):
                for quad, weights in enumerate(rows.weights(g, i * step + word)):
                    self.quad(sums, weights, first, g, (i * step + word) * rows.quads + quad)
            for vector in (v for of_token in sums for v in of_token):
                vector.flush()

    def quad(self, sums: list[list[ByteSums]], weights: list[Any], first: Any, g: Any, quad: Any) -> None:
        """Four channels (``quad``) of every token meet four weights of every row."""
        spec = self.spec
        for token, of_token in enumerate(sums):
            quads = (first + token, g * spec.padded_group + quad * QUAD)
            spikes = broadcast(tirx.reinterpret("int32", load(self.packed, quads, QUAD)), self.lanes)
            for vector, weight in zip(of_token, weights, strict=True):
                unsigned, signed = (spikes, weight) if spec.unsigned else (weight, spikes)
                vector.add(unsigned, signed)

    def read_out(self, acc: Any, total: Any, rows: Packed, m: Any, g: Any) -> None:
        """total += (theta * scale) * float(acc), the reference's order of products."""
        spec, lanes = self.spec, self.lanes
        theta = load(self.theta, (m, g * spec.theta_groups // spec.groups))
        for v in range(rows.wide):
            slot = (v * lanes,)
            scale = rows.scale(g * spec.scale_groups // spec.groups, v)
            spikes = load(acc, slot, lanes).astype(lane_type("float32", lanes))
            term = rounded(broadcast(theta, lanes) * scale * spikes)
            store(total, slot, load(total, slot, lanes) + term, lanes)

    def write_raw(self, acc: Any, size: int, block: Any, row: Any, m: Any, g: Any) -> None:
        first = block * ROW_BLOCK + row
        with loop(size) as r, if_(first + r < self.spec.rows), then():
            store(self.out, (m, g, first + r), load(acc, (r,)))

    def finish(self, total: Any, size: int, block: Any, row: Any, m: Any) -> None:
        """Bias, residual, and the store; the last block writes only the rows that exist."""
        first = block * ROW_BLOCK + row
        if not self.spec.rows % ROW_BLOCK:
            self.write(total, size, first, m)
            return
        with if_(first + size <= self.spec.rows):
            with then():
                self.write(total, size, first, m)
            with otherwise(), loop(size) as r, if_(first + r < self.spec.rows), then():
                self.write_lanes(total, r, 1, first, m)

    def write(self, total: Any, size: int, first: Any, m: Any) -> None:
        for at in range(0, size, self.lanes):
            self.write_lanes(total, at, self.lanes, first, m)

    def write_lanes(self, total: Any, at: Any, lanes: int, first: Any, m: Any) -> None:
        value = load(total, (at,), lanes)
        if self.bias is not None:
            value = value + load(self.bias, (first + at,), lanes)
        if self.residual is not None:
            value = load(self.residual, (m, first + at), lanes) + value
        store(self.out, (m, first + at), value, lanes)
