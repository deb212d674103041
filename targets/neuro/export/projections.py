"""The synapses of a binary: which core's spikes meet which weights on which other core.

Read from the program itself: ``send`` names a route and thus a tag, ``accum`` takes that tag and names a
synapse slot, ``slot`` says where the rows of weights lie. KV caches are no synapses in this sense: their rows
come at run time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.isa.fields import Length, Ref
from sdc.targets.neuro.isa.program import CoreProgram, Program
from sdc.targets.neuro.simulate.core import Core
from sdc.targets.neuro.simulate.events import fires, unpack_rows

__all__ = ["Event", "Projection", "TrainLog", "projections"]


@dataclass(frozen=True)
class Projection:
    """Spikes of one core under one tag, and the weights that they meet on another.

    Attributes:
        weight: [axons, outputs] int32.
        group: Axons that share a row of accumulators.
        accumulators: Word address of the first accumulator; axon k adds to ``accumulators + k // group *
            outputs + n``.
    """

    source: int
    target: int
    tag: int
    weight: NDArray[np.int32]
    group: int
    accumulators: int

    @property
    def matrix(self) -> NDArray[np.int32]:
        """[accumulators, axons] the same weights with each group's accumulators apart."""
        axons, outputs = self.weight.shape
        rows = np.arange(axons)[:, None] // self.group * outputs + np.arange(outputs)
        out = np.zeros((-(-axons // self.group) * outputs, axons), np.int32)
        out[rows, np.arange(axons)[:, None]] = self.weight
        return out


def projections(program: Program) -> list[Projection]:
    """All projections with fixed weights, by source, tag and target."""
    widths: dict[tuple[int, int, int], int] = {}
    for core in program.cores:
        for instruction in core.code:
            if instruction.name == "send":
                _, length, _, route, index = instruction.operands
                assert isinstance(length, Length)
                found = core.routes[int(route)]  # type: ignore[arg-type]
                for target in found.targets:
                    key = core.core, found.tag, target
                    widths[key] = max(widths.get(key, 0), int(index) + length.value)  # type: ignore[arg-type]
    sinks = {core.core: dict(_sinks(core)) for core in program.cores}
    out = []
    for (source, tag, target), axons in sorted(widths.items()):
        if tag in sinks.get(target, {}):
            weight, group, acc = sinks[target][tag]
            out.append(Projection(source, target, tag, weight[:axons], group, acc))
    return out


def _sinks(core: CoreProgram) -> Iterator[tuple[int, tuple[NDArray[np.int32], int, int]]]:
    """Of each tag that the core accumulates: its weights, group and accumulators."""
    slots: dict[int, tuple[NDArray[np.int32], int, int]] = {}
    for instruction in core.code:
        if instruction.name == "slot":
            number, rows, stride, outputs, group, bits, acc = instruction.operands
            assert isinstance(rows, Ref)
            assert isinstance(acc, Ref)
            assert isinstance(outputs, Length)
            data = _segment(core, rows.address)
            slots.pop(int(number), None)  # type: ignore[arg-type]
            if data is not None and not outputs.keys:
                packed = data[: len(data) // int(stride) * int(stride)]  # type: ignore[arg-type]
                table = unpack_rows(packed.reshape(-1, int(stride)), int(bits), outputs.value)  # type: ignore[arg-type]
                slots[int(number)] = table.astype(np.int32), int(group), acc.address  # type: ignore[arg-type]
        elif instruction.name == "accum":
            tag, number, *_ = instruction.operands
            if int(number) in slots:  # type: ignore[arg-type]
                yield int(tag), slots[int(number)]  # type: ignore[arg-type]


def _segment(core: CoreProgram, address: int) -> NDArray[np.uint8] | None:
    for segment in core.segments:
        start = address - segment.address
        if segment.memory == "s" and 0 <= start < len(segment.data):
            return np.frombuffer(segment.data, np.uint8)[start:]
    return None


@dataclass(frozen=True)
class Event:
    """One time step of one train: what ``send`` put onto a route.

    Attributes:
        axons: [spikes] numbers on the receiving side.
        negative: [spikes] whether the row is subtracted.
    """

    source: int
    tag: int
    step: int
    axons: NDArray[np.int64]
    negative: NDArray[np.bool_]


@dataclass
class TrainLog:
    """An observer of the functional simulator that keeps every spike, and what the spikes added up to.

    Attributes:
        sums: By core and tag: the core's accumulators (and what lies behind them) after the last ``accum``.
    """

    events: list[Event] = field(default_factory=list)
    sums: dict[tuple[int, int], NDArray[np.int32]] = field(default_factory=dict)

    def executed(self, core: Core, pc: int) -> None:
        """Looks at ``send`` and ``accum``."""
        name, operands = core.code[pc]
        if name == "send":
            self._sent(core, operands)
        elif name == "accum":
            tag, number, *_ = operands
            place = core.slot(number).acc
            self.sums[core.program.core, tag] = core.i[place.address + core.bases[place.base] :].copy()

    def _sent(self, core: Core, operands: tuple[Any, ...]) -> None:
        counts, length, coding, route, index = operands
        loop = core.loop
        values = core.i[core.words(counts, core.length(length))]
        axons = np.flatnonzero(fires(values, coding, loop))
        negative = values[axons] < 0
        self.events.append(
            Event(core.program.core, core.route(route).tag, loop.iteration, axons + index, negative)
        )

    def put(self, core: int, tag: int, packets: int) -> None:
        """Words are no spikes."""

    def take(self, tag: int, sources: int) -> None:
        """Words are no spikes."""
