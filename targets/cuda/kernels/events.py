"""Event-driven accumulation for one token: only the weights of channels that spiked are read.

Weights lie by input channel, int8 [K, N], so that a silent channel costs nothing but its vote: a warp votes
over 32 counts, then walks over the set bits. A block of eight warps takes 128 output rows, four a lane; warps
share the groups, and their sums are added in the order of the warps. Accumulators are those of every other
schedule.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

from tvm import tirx

from sdc.targets.cuda.emit import (
    WARP,
    barrier,
    blocks,
    first_bit,
    let,
    load_words,
    loop,
    registers,
    shared,
    shuffle,
    threads,
    vote,
    while_,
)
from sdc.targets.cuda.kernels.linear import Operands, declare_operands, finished, scale_at
from sdc.targets.fused.emit import const, if_, load, prim_func, store, symbol, then
from sdc.targets.fused.specs import LinearSpec

__all__ = ["can_walk_events", "expected_silence", "pays", "spike_events"]

_WARPS, _PER_LANE = 8, 4
_ROWS = WARP * _PER_LANE


def can_walk_events(spec: LinearSpec) -> bool:
    """Whether groups are whole votes, rows whole words, and counts signed."""
    return spec.group % WARP == 0 and spec.rows % _PER_LANE == 0 and not spec.unsigned


def expected_silence(levels: int, group: int, clip_ratio: float, dead_zone: float) -> float:
    """The share of counts that are 0 where activations are Gaussian, which the projection makes them.

    The largest of g magnitudes has its median where the normal distribution's two-sided quantile of 0.5^(1/g)
    is; a count is 0 below half a threshold, or below the dead zone.
    """
    normal = NormalDist()
    largest = normal.inv_cdf((1 + 0.5 ** (1 / group)) / 2)
    threshold = clip_ratio * largest / levels
    return math.erf(max(0.5, dead_zone) * threshold / math.sqrt(2))


def pays(silence: float, bits: int) -> bool:
    """Whether the bytes of the channels that spike are at most half of all weights'.

    Half, because an event costs a multiplication per weight where dp4a takes four; not measured on a device.
    """
    return (1 - silence) * 8 <= bits / 2


def spike_events(spec: LinearSpec) -> tirx.PrimFunc:
    """The kernel of :func:`sdc.targets.cuda.kernels.linear.declare_operands` with weight [K, N]."""
    return prim_func(f"{spec.key()}_events", lambda: _Kernel(spec).emit())


class _Kernel:
    def __init__(self, spec: LinearSpec) -> None:
        self.spec = spec
        self.groups = spec.width // spec.group

    def emit(self) -> None:
        spec = self.spec
        n: Any = spec.tokens or symbol("n")
        self.operands: Operands = declare_operands(spec, n, transposed=True)
        with (
            blocks("x", -(-spec.rows // _ROWS)) as block,
            blocks("y", n) as m,
            threads(_WARPS * WARP) as t,
        ):
            self.m, self.lane, warp = m, let(tirx.floormod(t, WARP)), let(tirx.floordiv(t, WARP))
            self.row = let(block * _ROWS + self.lane * _PER_LANE)
            self.acc, self.total = registers(_PER_LANE, "int32"), registers(_PER_LANE, "float32")
            for i in range(_PER_LANE):
                store(self.total, (i,), const(0.0, "float32"))
            with loop(-(-self.groups // _WARPS)) as i:
                group = let(i * _WARPS + warp)
                with if_(group < self.groups), then():
                    self.walk(group)
                    self.read_out(group)
            if not spec.raw:
                self.add_warps(t, warp, block)

    def walk(self, group: Any) -> None:
        """The accumulators of one group."""
        spec = self.spec
        for i in range(_PER_LANE):
            store(self.acc, (i,), const(0, "int32"))
        left = registers(1, "int32")
        with loop(spec.group // WARP) as part:
            base = let(group * spec.group + part * WARP)
            count = registers(1, "int32")
            store(count, (0,), load(self.operands.counts, (self.m, base + self.lane)).astype("int32"))
            store(left, (0,), vote(load(count, (0,)) != const(0, "int32")))
            with while_(load(left, (0,)) != const(0, "int32")):
                bit = let(first_bit(load(left, (0,))))
                store(left, (0,), load(left, (0,)) & (load(left, (0,)) - const(1, "int32")))
                spike = let(shuffle(load(count, (0,)), bit))
                with if_(self.row < spec.rows), then():
                    word = let(load_words(self.operands.weight, (base + bit, self.row), 1))
                    for i in range(_PER_LANE):
                        # Byte i with its sign: up to the top, and back down.
                        up = tirx.shift_left(word, const(24 - 8 * i, "int32"))
                        weight = tirx.shift_right(up, const(24, "int32"))
                        store(self.acc, (i,), load(self.acc, (i,)) + spike * weight)

    def read_out(self, group: Any) -> None:
        spec = self.spec
        with if_(self.row < spec.rows), then():
            for i in range(_PER_LANE):
                acc = load(self.acc, (i,))
                if spec.raw:
                    store(self.operands.out, (self.m, group, self.row + i), acc)
                    continue
                theta = load(
                    self.operands.theta, (self.m, tirx.floordiv(group * spec.theta_groups, self.groups))
                )
                own = tirx.floordiv(group * spec.scale_groups, self.groups)
                term = theta * scale_at(self.operands, self.row + i, own) * acc.astype("float32")
                store(self.total, (i,), load(self.total, (i,)) + term)

    def add_warps(self, t: Any, warp: Any, block: Any) -> None:
        sums = shared((_WARPS * _ROWS,), "float32")
        for i in range(_PER_LANE):
            store(sums, (warp * _ROWS + self.lane * _PER_LANE + i,), load(self.total, (i,)))
        barrier()
        row = let(block * _ROWS + t)
        total = registers(1, "float32")
        with if_(tirx.all(t < _ROWS, row < self.spec.rows)), then():
            store(total, (0,), load(sums, (t,)))
            for w in range(1, _WARPS):
                store(total, (0,), load(total, (0,)) + load(sums, (t + w * _ROWS,)))
            store(self.operands.out, (self.m, row), finished(self.operands, load(total, (0,)), self.m, row))
