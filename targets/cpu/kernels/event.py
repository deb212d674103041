"""Spike accumulation that walks the counts that are not zero, for one token; the readout is the other form's.

A pass over the token's counts collects, for each group, the channels that fired and their counts. Weights are
stored by input channel, 64 bytes of neighbouring rows each: what a silent channel's weights hold is never
read. Four channels that fired are turned, in registers, into what the collapsed kernel reads from memory (a
word of four weights for each row), and go through the same byte dot product. So accumulators are the same bit
for bit, and every instruction set has its own form of both kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sdc.targets.cpu.dot import QUAD, dot4
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
    prim_func,
    scratch,
    store,
    then,
)
from sdc.targets.cpu.isa import Isa
from sdc.targets.cpu.kernels.linear import LinearKernel, LinearSpec, is_short
from sdc.targets.cpu.kernels.packed import ROW_BLOCK, Packed, weights_in

__all__ = ["LINE_BYTES", "EventSpec", "blocks_per_line", "event_linear", "lines"]

# A channel's weights lie together in cache lines: a quarter of one would be read whole all the same.
LINE_BYTES = 64


@dataclass(frozen=True)
class EventSpec:
    """A linear in the event-driven form; of one token.

    Raises:
        ValueError: The linear is one of more tokens.
    """

    linear: LinearSpec

    def __post_init__(self) -> None:
        if self.linear.tokens != 1:
            raise ValueError(f"the event-driven form takes one token, not {self.linear.tokens or 'n'}")

    def key(self) -> str:
        """A name for the kernel."""
        return f"event_{self.linear.key()}"


def blocks_per_line(spec: LinearSpec) -> int:
    """Blocks of ROW_BLOCK rows whose weights of one channel share a cache line."""
    return LINE_BYTES * 8 // (ROW_BLOCK * spec.bits)


def lines(spec: LinearSpec) -> int:
    """Cache lines of one channel: pieces of the output rows, the last one padded."""
    return -(-spec.blocks // blocks_per_line(spec))


def event_linear(spec: EventSpec, isa: Isa) -> tirx.PrimFunc:
    """The kernel ``(counts, theta, weight, scale[, bias][, residual], out)`` for one token.

    As :func:`sdc.targets.cpu.kernels.linear.spike_linear`, but weight is [lines, K, 16] int32 as packed by
    :class:`sdc.targets.cpu.packing.PackColumns`.
    """
    return prim_func(spec.key(), lambda: _EventKernel(spec.linear, isa).emit())


class _EventKernel(LinearKernel):
    def __init__(self, spec: LinearSpec, isa: Isa) -> None:
        super().__init__(spec, isa)
        self.lanes = min(isa.lanes, 8)  # of 512 bits, half would wait for the other half's channels
        self.vectors = ROW_BLOCK // self.lanes
        self.room = (-(-spec.group // QUAD) + 1) * QUAD  # entries of a group, with those that fill it up

    def declare_weight(self) -> Any:
        """Weights by input channel."""
        return declare("weight", (lines(self.spec), self.spec.width, LINE_BYTES // 4), "int32")

    def prepare(self) -> None:
        """Collects what fired: counts, channels, and how many quads of them each group has.

        A group's list is filled up to whole quads by counts of 0.
        """
        spec = self.spec
        dtype = "uint8" if spec.unsigned else "int8"
        self.fired = scratch((spec.groups * self.room,), dtype)
        self.channels = scratch((spec.groups * self.room,), "int32")
        self.quads = scratch((spec.groups,), "int32")
        self.start = scratch((spec.groups,), "int32")
        place, total = local(1, "int32"), local(1, "int32")
        with loop(spec.groups) as g:
            store(place, (0,), g * self.room)
            store(total, (0,), const(0, "int32"))
            with loop(spec.group) as k:
                count = let(load(self.counts, (0, g * spec.group + k)))
                at = let(load(place, (0,)))
                store(self.fired, (at,), count)
                store(self.channels, (at,), g * spec.group + k)
                # No branch: a silent channel's entry is written over by the next one's.
                store(place, (0,), at + (count != const(0, dtype)).astype("int32"))
                store(total, (0,), load(total, (0,)) + count.astype("int32"))
            end = let(load(place, (0,)))
            for more in range(QUAD - 1):
                store(self.fired, (end + more,), const(0, dtype))
                store(self.channels, (end + more,), g * spec.group)
            store(self.quads, (g,), tirx.floordiv(end - g * self.room + QUAD - 1, QUAD))
            store(self.start, (g,), const(-spec.offset, "int32") * load(total, (0,)))

    def run(self) -> None:
        """All lines of rows, each block of a line in turn: the first one brings the line into the cache."""
        spec, inside = self.spec, blocks_per_line(self.spec)
        pieces = lines(spec)
        with (
            loop(pieces, parallel=not is_short(spec) and pieces > 1) as line,
            loop(inside) as part,
            if_(line * inside + part < spec.blocks),
            then(),
        ):
            self.rows_of(line, part)

    def rows_of(self, line: Any, part: Any) -> None:
        """One block of output rows."""
        spec = self.spec
        block = line * blocks_per_line(spec) + part
        rows = Packed(self, block)
        acc, total = local(ROW_BLOCK, "int32"), local(ROW_BLOCK, "float32")
        for at in range(0, ROW_BLOCK, self.lanes):
            store(total, (at,), const(0.0, "float32", self.lanes), self.lanes)
        with loop(spec.groups) as g:
            self.walk(acc, line, part, g)
            if spec.raw:
                self.write_raw(acc, ROW_BLOCK, block, 0, 0, g)
            else:
                self.read_out(acc, total, rows, 0, g)
        if not spec.raw:
            self.finish(total, ROW_BLOCK, block, 0, 0)

    def walk(self, acc: Any, line: Any, part: Any, g: Any) -> None:
        """The accumulators of one group: quads of channels that fired, one after another."""
        spec, lanes = self.spec, self.lanes
        for at in range(0, ROW_BLOCK, lanes):
            store(acc, (at,), broadcast(load(self.start, (g,)), lanes), lanes)
        with loop(load(self.quads, (g,))) as quad:
            entry = let(g * self.room + quad * QUAD)
            spikes = broadcast(tirx.reinterpret("int32", load(self.fired, (entry,), QUAD)), lanes)
            channels = [let(load(self.channels, (entry + i,))) for i in range(QUAD)]
            for at, weight in self.turned(line, part, channels):
                unsigned, signed = (spikes, weight) if spec.unsigned else (weight, spikes)
                before = load(acc, (at,), lanes)
                store(
                    acc,
                    (at,),
                    dot4(self.isa, before, unsigned, signed, lanes, pair=spec.pair),
                    lanes,
                )

    def turned(self, line: Any, part: Any, channels: list[Any]) -> list[tuple[int, Any]]:
        """(first row, words): four channels' weights as words of four, ``lanes`` rows at once."""
        lanes, words = self.lanes, ROW_BLOCK * self.spec.bits // 32
        if self.spec.bits == 8:
            made = []
            for first in range(0, words, lanes):
                columns = [let(load(self.weight, (line, c, part * words + first), lanes)) for c in channels]
                made += [(8 * i + first, v) for i, v in enumerate(_transposed(columns, lanes))]
            return made
        columns = [let(load(self.weight, (line, c, part * words), words)) for c in channels]
        packed = [let(v) for v in _transposed(columns, words)]
        if lanes == 8:
            packed = [let(_side_by_side(x, y)) for x, y in zip(packed[::2], packed[1::2], strict=True)]
        each = ROW_BLOCK // self.spec.quads
        return [
            (each * quad + lanes * i, v)
            for quad in range(self.spec.quads)
            for i, v in enumerate(weights_in(packed, self.spec.bits, quad, lanes))
        ]


def _side_by_side(x: Any, y: Any) -> Any:
    """int32 x 8 of two int32 x 4."""
    return tirx.Shuffle([x, y], [tirx.const(i, "int32") for i in range(8)])


def _transposed(columns: list[Any], words: int) -> list[Any]:
    """Of four vectors of bytes, the i-th four bytes of each 16 as words, one byte of every column in each.

    Within 128 bits, as the unpack instructions of all x86 levels and ARM's zip do. Columns are 2, 4 or 8
    ``words`` of 32 bits; of 8, the vectors that come back are as long, else of four.
    """
    a, b, c, d = (tirx.reinterpret(lane_type("int8", 4 * words), column) for column in columns)
    size, lanes = 4 * words, max(words, 4)
    halves, made = lane_type("int16", 2 * lanes), []
    for first in range(0, min(size, 16), 8):
        ab, cd = (tirx.reinterpret(halves, _in_turn(x, y, size, first, 8)) for x, y in ((a, b), (c, d)))
        for upper in (0, 4):
            quads = _in_turn(ab, cd, 2 * lanes, upper, 4)
            made.append(tirx.reinterpret(lane_type("int32", lanes), quads))
    return made


def _in_turn(x: Any, y: Any, size: int, first: int, count: int) -> Any:
    """Elements of x and y, ``size`` each, in turn: ``count`` from ``first`` on of every ``2 count``."""
    pieces = range(first, size, 2 * count)
    order = [own + at + i for at in pieces for i in range(count) for own in (0, size)]
    return tirx.Shuffle([x, y], [tirx.const(at, "int32") for at in order])
