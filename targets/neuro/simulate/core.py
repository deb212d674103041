"""One core's state, and access to it with the checks that the instruction set demands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.isa.errors import ExecutionError
from sdc.targets.neuro.isa.fields import Length, Ref
from sdc.targets.neuro.isa.program import CoreProgram, Route
from sdc.targets.neuro.simulate.network import Inbox, Message

__all__ = ["Core", "Loop", "Slot"]

MAX_LOOPS = 8


@dataclass
class Loop:
    """An open hardware loop."""

    start: int
    count: int
    iteration: int = 0


@dataclass(frozen=True)
class Slot:
    """A synapse descriptor, as the instruction ``slot`` sets it."""

    rows: int
    stride: int
    outputs: Length
    group: int
    bits: int
    acc: Ref


@dataclass
class Core:
    """The state of one core.

    Attributes:
        n: Neuron memory, uint32 words; ``f`` and ``i`` are the same memory as float32 and int32.
        s: Synapse memory, uint8.
        post: Puts a message onto a route; the machine provides it.
        counted: Told of counts and thresholds when a ``count`` has made them.
        events: What the core did: ``instructions``, ``synops`` (one weight added), ``spikes`` taken,
            ``vector`` (float operations), by name.
    """

    program: CoreProgram
    inbox: Inbox
    post: Callable[[Core, Route, Message], None]
    external: NDArray
    counted: Callable[[Core, NDArray, NDArray], None]
    pc: int = 0
    pos: int = 0
    halted: bool = False
    barrier: int | None = None
    bases: list[int] = field(default_factory=lambda: [0] * 8)
    loops: list[Loop] = field(default_factory=list)
    slots: dict[int, Slot] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.n = np.zeros(self.program.neuron_words, np.uint32)
        self.s = np.zeros(self.program.synapse_bytes, np.uint8)
        self.f, self.i = self.n.view(np.float32), self.n.view(np.int32)
        self.code: list[tuple[str, tuple[Any, ...]]] = [(i.name, i.operands) for i in self.program.code]
        for segment in self.program.segments:
            memory = self.s if segment.memory == "s" else self.n.view(np.uint8)
            start = segment.address * (1 if segment.memory == "s" else 4)
            if start + len(segment.data) > len(memory):
                raise self.error(f"ADDRESS: data at {segment.memory}[{segment.address:#x}] exceed the memory")
            memory[start : start + len(segment.data)] = np.frombuffer(segment.data, np.uint8)

    def error(self, message: str) -> ExecutionError:
        """An exception at the present instruction."""
        where = self.place()
        return ExecutionError(self.program.core, self.pc, f"{message} ({where})" if where else message)

    def place(self) -> str:
        """The nearest note at or before the present instruction, else the core's name."""
        before = [index for index in self.program.notes if index <= self.pc]
        return self.program.notes[max(before)].splitlines()[-1] if before else self.program.name

    def length(self, length: Length) -> int:
        """The number of elements that a length operand stands for now."""
        return min(length.value, self.pos + 1) if length.keys else length.value

    def words(self, ref: Ref, count: int) -> slice:
        """``count`` words of the neuron memory."""
        start = ref.address + self.bases[ref.base]
        if start < 0 or start + count > len(self.n):
            raise self.error(f"ADDRESS: n[{start:#x}] and {count} words, of {len(self.n)}")
        return slice(start, start + count)

    def bytes(self, ref: Ref, count: int) -> slice:
        """``count`` bytes of the synapse memory."""
        start = ref.address + self.bases[ref.base]
        if start < 0 or start + count > len(self.s):
            raise self.error(f"ADDRESS: s[{start:#x}] and {count} bytes, of {len(self.s)}")
        return slice(start, start + count)

    def table(self, ref: Ref, offset: int, count: int) -> NDArray:
        """``count`` words of the synapse memory, ``offset`` words after an address, as uint32."""
        start = ref.address + self.bases[ref.base] + 4 * offset
        data: NDArray = self.s[self.bytes(Ref(start), 4 * count)]
        return np.frombuffer(data.tobytes(), "<u4")

    @property
    def loop(self) -> Loop:
        """The innermost loop, whose iteration is the time step.

        Raises:
            ExecutionError: There is none.
        """
        if not self.loops:
            raise self.error("LOOP: this instruction needs a loop around it")
        return self.loops[-1]

    def slot(self, number: int) -> Slot:
        """A synapse descriptor.

        Raises:
            ExecutionError: It was never set.
        """
        if number not in self.slots:
            raise self.error(f"RANGE: synapse slot {number} is not set")
        return self.slots[number]

    def route(self, number: int) -> Route:
        """A route.

        Raises:
            ExecutionError: The core has no such route.
        """
        if number >= len(self.program.routes):
            raise self.error(f"ROUTE: route {number}; the core has {len(self.program.routes)}")
        return self.program.routes[number]

    def groups(self, length: Length, group: int) -> tuple[int, int]:
        """(channels, groups); group 0 is one group of all channels.

        Raises:
            ExecutionError: The groups do not divide the channels.
        """
        count = self.length(length)
        if group == 0:
            return count, 1
        if count % group:
            raise self.error(f"RANGE: groups of {group} do not divide {count} channels")
        return count, count // group
