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

from sdc.targets.cpu.dot import ByteSums, divisor, dot4
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
from sdc.targets.fused import specs

__all__ = ["ROW_BLOCK", "LinearKernel", "LinearSpec", "is_short", "spike_linear"]

# Output rows of one packed block: two 512-bit, four 256-bit or eight 128-bit registers.
ROW_BLOCK = 32

# Words of a row in straight code.
_STRAIGHT = 4

# Vectors of rows that meet several tokens at once: weights that are unpacked stay in their registers.
_TILE_VECTORS = 2

# Below this many weights a decode step is shorter than waking a second thread.
_SERIAL_WEIGHTS = 32768


@dataclass(frozen=True)
class LinearSpec(specs.LinearSpec):
    """A fused linear in the order in which this target packs its weights.

    Attributes:
        short_scales: Weight scales are bfloat16 numbers, stored in 16 bits.
    """

    short_scales: bool = False

    def key(self) -> str:
        """See the base class."""
        return super().key() + ("h" if self.short_scales else "")

    @property
    def blocks(self) -> int:
        """Packed blocks of ROW_BLOCK rows, the last one padded."""
        return -(-self.rows // ROW_BLOCK)

    @property
    def words(self) -> int:
        """32-bit words per row and group: 4 weights each, or 8 of 4 bits; padded with zero weights."""
        return -(-self.group // (4 if self.bits == 8 else 8))

    @property
    def padded_group(self) -> int:
        """Channels per group after padding."""
        return self.words * (4 if self.bits == 8 else 8)

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
        """One block of output rows for all tokens: ``isa.rows`` at a time, of the rest two, then one."""
        most = 1 if self.spec.tokens == 1 else self.isa.rows
        done: Any = 0
        for count in sorted({most, min(most, 2), 1}, reverse=True):
            times = tirx.floordiv(self.n - done, count) if most > 1 else self.n
            times = times if isinstance(times, int) else let(times)
            with loop(times) as m:
                self.tile(block, done + m * count, count)
            done = done + times * count

    def tile(self, block: Any, first: Any, count: int) -> None:
        """``count`` tokens times one block of rows: of several, as many rows at once as registers hold."""
        wide = self.vectors if count == 1 else min(self.vectors, _TILE_VECTORS)
        with loop(self.vectors // wide) as part:
            self.piece(block, part * (wide * self.lanes), wide, first, count)

    def piece(self, block: Any, row: Any, wide: int, first: Any, count: int) -> None:
        """``count`` tokens times ``wide`` vectors of a block's rows, from ``row`` on."""
        spec, size = self.spec, wide * self.lanes
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
                self.accumulate(acc, block, row, wide, first, g)
                for token in range(count):
                    if spec.raw:
                        self.write_raw(acc[token], size, block, row, first + token, g)
                    else:
                        self.read_out(acc[token], total[token], block, row, wide, first + token, g)
        for token, sums in enumerate(total):
            self.finish(sums, size, block, row, first + token)

    def accumulate(self, acc: list[Any], block: Any, row: Any, wide: int, first: Any, g: Any) -> None:
        spec, lanes = self.spec, self.lanes
        fitting = ByteSums.fitting(self.isa, lanes, spec.pair)
        places = range(0, wide * lanes, lanes)
        sums = [[ByteSums(self.isa, array, at, lanes, spec.pair) for at in places] for array in acc]
        for token, of_token in enumerate(sums):
            start = load(self.start, (first + token, g)) if spec.offset else const(0, "int32")
            for vector in of_token:
                vector.set(broadcast(start, lanes))
        # As many words in straight code as 16 bits can add up, and no more than keeps the code small.
        quads = 1 if spec.bits == 8 else 2
        step = divisor(spec.words, min(_STRAIGHT, fitting // quads))
        with loop(spec.words // step) as i:
            for word in range(step):
                self.dots(sums, block, row, first, g, i * step + word)
            for vector in (v for of_token in sums for v in of_token):
                vector.flush()

    def dots(self, sums: list[list[ByteSums]], block: Any, row: Any, first: Any, g: Any, word: Any) -> None:
        """One word of every row of weights, and the counts of every token that meet it."""
        spec, lanes = self.spec, self.lanes
        places = [(block, g, word, row + v * lanes) for v in range(len(sums[0]))]
        packed = [load(self.weight, at, lanes) for at in places]
        if spec.bits == 8:
            self.quad(sums, packed, first, g, word)
            return
        nibble, four = const(0x0F0F0F0F, "int32", lanes), const(4, "int32", lanes)
        self.quad(sums, [w & nibble for w in packed], first, g, word * 2)
        self.quad(sums, [tirx.shift_right(w, four) & nibble for w in packed], first, g, word * 2 + 1)

    def quad(self, sums: list[list[ByteSums]], weights: list[Any], first: Any, g: Any, quad: Any) -> None:
        """Four channels (``quad``) of every token meet four weights of every row."""
        spec = self.spec
        for token, of_token in enumerate(sums):
            quads = (first + token, g * spec.padded_group + quad * 4)
            spikes = broadcast(tirx.reinterpret("int32", load(self.packed, quads, 4)), self.lanes)
            for vector, weight in zip(of_token, weights, strict=True):
                unsigned, signed = (spikes, weight) if spec.unsigned else (weight, spikes)
                vector.add(unsigned, signed)

    def read_out(self, acc: Any, total: Any, block: Any, row: Any, wide: int, m: Any, g: Any) -> None:
        """total += (theta * scale) * float(acc), the reference's order of products."""
        spec, lanes = self.spec, self.lanes
        theta = load(self.theta, (m, g * spec.theta_groups // spec.groups))
        for v in range(wide):
            slot = (v * lanes,)
            scale = self.scales(block, g * spec.scale_groups // spec.groups, row + v * lanes)
            spikes = load(acc, slot, lanes).astype(lane_type("float32", lanes))
            term = rounded(broadcast(theta, lanes) * scale * spikes)
            store(total, slot, load(total, slot, lanes) + term, lanes)

    def scales(self, block: Any, g: Any, row: Any) -> Any:
        """The scales of one vector of rows; a bfloat16 is the upper half of a float32."""
        stored = load(self.scale, (block, g, row), self.lanes)
        if not self.spec.short_scales:
            return stored
        wide = stored.astype(lane_type("uint32", self.lanes))
        bits = tirx.shift_left(wide, const(16, "uint32", self.lanes))
        return tirx.reinterpret(lane_type("float32", self.lanes), bits)

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
