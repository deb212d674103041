"""Which tile sends what to which others."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.mapping.graph import Accumulate, Attention, Encode, Op, SpikeGraph, Traffic
from sdc.targets.neuro.mapping.tiles import FlowKind, Flows
from sdc.targets.neuro.partition.cut import Cut

__all__ = ["connect"]

WORD_BITS = 32


def connect(
    graph: SpikeGraph,
    ops: tuple[Op, ...],
    owner: NDArray[np.int64],
    cuts: list[Cut | None],
    first: list[int],
    wave: NDArray[np.int64],
    payload_bits: int,
) -> Flows:
    """All flows of one token: spikes, values, chains of partial sums, statistics of whole rows.

    Args:
        owner: [O] operation whose tiles do the work of each operation.
        first: [O] number of each operation's first tile.
        wave: [T] wave of each tile; flows between waves go through external memory.
    """
    builder = _Flows(ops, owner, cuts, first, -(-WORD_BITS // payload_bits))
    index = {op.name: i for i, op in enumerate(ops)}
    spikes: dict[int, list[int]] = {}
    for producer, consumer, traffic in graph.edges():
        p, c = index[producer], index[consumer]
        if traffic.kind == "spikes":
            spikes.setdefault(p, []).append(c)
        elif traffic.kind == "summary":
            builder.summary(p, c)
        elif traffic.kind == "values":
            builder.values(p, c, traffic)
    for p, consumers in spikes.items():
        builder.spikes(p, consumers)
    for i, op in enumerate(ops):
        builder.inner(i, op)
    return builder.build(wave)


class _Flows:
    def __init__(
        self,
        ops: tuple[Op, ...],
        owner: NDArray[np.int64],
        cuts: list[Cut | None],
        first: list[int],
        words: int,
    ) -> None:
        self.ops, self.owner, self.cuts, self.first, self.words = ops, owner, cuts, first, words
        self.found: list[tuple[int, list[int], float, FlowKind]] = []

    def add(self, source: int, targets: list[int], packets: float, kind: FlowKind) -> None:
        """Remembers a flow; what stays on its own core is none."""
        away = sorted(set(targets) - {source})
        if away and packets > 0:
            self.found.append((source, away, packets, kind))

    def cut(self, op: int) -> tuple[Cut, int]:
        """The cut that does an operation's work, and its first tile."""
        owner = int(self.owner[op])
        cut = self.cuts[owner]
        assert cut is not None
        return cut, self.first[owner]

    def spikes(self, producer: int, consumers: list[int]) -> None:
        """One multicast for every range of channels that has the same receivers."""
        encode = self.ops[producer]
        assert isinstance(encode, Encode)
        source, base = self.cut(producer)
        cuts = [self.cut(c) for c in consumers]
        marks = np.unique(np.concatenate([source.row_edges, *(cut.col_edges for cut, _ in cuts)]))
        for low, high in pairwise(marks):
            piece = base + int(np.searchsorted(source.row_edges, low, "right")) - 1
            targets = []
            for cut, start in cuts:
                column = int(np.searchsorted(cut.col_edges, low, "right")) - 1
                targets += [start + r * cut.cols + column for r in range(cut.rows)]
            thresholds = self.words * -(-int(high - low) // encode.group)
            packets = float(high - low) * encode.spikes_per_neuron + thresholds
            self.add(piece, targets, packets, FlowKind.SPIKES)

    def values(self, producer: int, consumer: int, traffic: Traffic) -> None:
        """Each producing tile sends each share of the consumer what that share reads."""
        cut, base = self.cut(producer)
        sink, start = self.cut(consumer)
        scale = Fraction(self.ops[producer].units, int(cut.row_edges[-1]))
        total = int(sink.row_edges[-1])
        shares: dict[tuple[int, int], int] = {}
        for offset, length in traffic.parts:
            for s in range(sink.rows):
                low = offset + Fraction(int(sink.row_edges[s]) * length, total)
                high = offset + Fraction(int(sink.row_edges[s + 1]) * length, total)
                self._overlaps(cut, scale, low, high, s, shares)
        for (r, s), channels in sorted(shares.items()):
            final = base + r * cut.cols + cut.cols - 1
            targets = [start + s * sink.cols + c for c in range(sink.cols)]
            self.add(final, targets, float(self.words * channels), FlowKind.VALUES)

    @staticmethod
    def _overlaps(
        cut: Cut, scale: Fraction, low: Fraction, high: Fraction, s: int, shares: dict[tuple[int, int], int]
    ) -> None:
        r = max(0, int(np.searchsorted(cut.row_edges, math.floor(low / scale), "right")) - 1)
        while r < cut.rows and cut.row_edges[r] * scale < high:
            common = min(cut.row_edges[r + 1] * scale, high) - max(cut.row_edges[r] * scale, low)
            if common > 0:
                shares[r, s] = shares.get((r, s), 0) + -(-common.numerator // common.denominator)
            r += 1

    def summary(self, producer: int, consumer: int) -> None:
        """Two words of each row block: its largest value, and where."""
        cut, base = self.cut(producer)
        _, start = self.cut(consumer)
        for r in range(cut.rows):
            self.add(base + r * cut.cols + cut.cols - 1, [start], 2.0 * self.words, FlowKind.VALUES)

    def inner(self, i: int, op: Op) -> None:
        """Flows between tiles of one operation."""
        cut, base = self.cuts[i], self.first[i]
        if cut is None:
            return
        if isinstance(op, Accumulate | Attention):
            self.chain(op, cut, base)
        if isinstance(op, Encode) and op.whole_row and cut.rows > 1:
            others = list(range(base + 1, base + cut.rows))
            for tile in others:
                self.add(tile, [base], float(self.words), FlowKind.STATISTIC)
            self.add(base, others, float(self.words), FlowKind.STATISTIC)

    def chain(self, op: Accumulate | Attention, cut: Cut, base: int) -> None:
        """Partial sums along the tiles of a row block, input groups ascending."""
        heights = np.diff(cut.row_edges)
        for r in range(cut.rows):
            if isinstance(op, Accumulate):
                words = int(heights[r])
            else:
                words = int(heights[r]) * (op.heads // op.kv_heads) * (op.head_dim + 2)
            for c in range(cut.cols - 1):
                tile = base + r * cut.cols + c
                self.add(tile, [tile + 1], float(self.words * words), FlowKind.REDUCTION)

    def build(self, wave: NDArray[np.int64]) -> Flows:
        """The flows as arrays; one that reaches tiles of its own and of later waves is divided."""
        divided: list[tuple[int, list[int], float, FlowKind, bool]] = []
        for source, targets, packets, kind in self.found:
            here = [t for t in targets if wave[t] == wave[source]]
            later = [t for t in targets if wave[t] != wave[source]]
            divided += [(source, part, packets, kind, part is later) for part in (here, later) if part]
        counts = np.array([len(targets) for _, targets, *_ in divided], np.int64)
        return Flows(
            source=np.array([source for source, *_ in divided], np.int64),
            first=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
            target=np.array([t for _, targets, *_ in divided for t in targets], np.int64),
            packets=np.array([packets for _, _, packets, *_ in divided], np.float64),
            kind=np.array([int(kind) for *_, kind, _ in divided], np.int64),
            external=np.array([external for *_, external in divided], np.bool_),
        )
