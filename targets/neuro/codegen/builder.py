"""Programs under construction: memory allocation, routes, labels, tags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sdc.errors import TargetError
from sdc.targets.neuro.isa.fields import Length, Operand, Ref
from sdc.targets.neuro.isa.instruction import Instruction
from sdc.targets.neuro.isa.program import CoreProgram, Program, Route, Segment

__all__ = ["CoreBuilder", "ProgramBuilder"]

TAGS = 1 << 12
INDICES = 1 << 16
ALIGNMENT = 4  # bytes, so that words in the synapse memory are aligned


@dataclass
class CoreBuilder:
    """One core's program, growing."""

    core: int
    name: str = ""
    words_used: int = 0
    bytes_used: int = 0
    code: list[Instruction] = field(default_factory=list)
    routes: dict[Route, int] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)  # released words: (start, end), ascending

    def words(self, count: int) -> Ref:
        """Room for ``count`` words of neuron memory: the first gap that is large enough, or new."""
        for number, (start, end) in enumerate(self.gaps):
            if end - start >= count:
                self.gaps[number : number + 1] = [(start + count, end)] if end - start > count else []
                return Ref(start)
        return self._new_words(count)

    def release(self, start: int, count: int) -> None:
        """Gives words back. A program runs in order, so what is emitted later may use them again."""
        merged: list[tuple[int, int]] = []
        for first, end in sorted([*self.gaps, (start, start + count)]):
            if merged and merged[-1][1] == first:
                first = merged.pop()[0]
            merged.append((first, end))
        self.gaps = merged

    def _new_words(self, count: int) -> Ref:
        start, self.words_used = self.words_used, self.words_used + count
        return Ref(start)

    def bytes(self, count: int) -> Ref:
        """Room for ``count`` bytes of synapse memory."""
        start = self.bytes_used
        self.bytes_used += -(-count // ALIGNMENT) * ALIGNMENT
        return Ref(start)

    def constant(self, array: NDArray, memory: Literal["n", "s"] = "n") -> Ref:
        """Initial contents: an array of 4-byte elements in ``n``, of any type in ``s``; never released."""
        data = np.ascontiguousarray(array).tobytes()
        place = self._new_words(len(data) // 4) if memory == "n" else self.bytes(len(data))
        self.segments.append(Segment(memory, place.address, data))
        return place

    def emit(self, name: str, *operands: Operand) -> None:
        """One more instruction; a plain integer where a length stands is that length."""
        spec = Instruction(name).spec
        fields = zip(spec.fields, operands, strict=True)
        values = [
            Length(value) if f.kind == "length" and isinstance(value, int) else value for f, value in fields
        ]
        self.code.append(Instruction(name, tuple(values)))

    def route(self, tag: int, *targets: int) -> int:
        """The number of a route, new or already there."""
        return self.routes.setdefault(Route(tag, tuple(sorted(set(targets)))), len(self.routes))

    def label(self, name: str) -> int:
        """Puts a label before the next instruction; returns its index."""
        self.labels[name] = len(self.code)
        return len(self.code)

    def describe(self, **places: Ref) -> None:
        """Puts a remark on what lies where in neuron memory before the next instruction."""
        self.note(", ".join(f"n[{ref.address:#x}] {name.replace('_', ' ')}" for name, ref in places.items()))

    def note(self, text: str) -> None:
        """Puts a remark before the next instruction."""
        before = self.notes.get(len(self.code))
        self.notes[len(self.code)] = text if before is None else f"{before}\n{text}"

    def build(self) -> CoreProgram:
        """The finished program."""
        return CoreProgram(
            self.core,
            self.name,
            self.words_used,
            self.bytes_used,
            tuple(self.code),
            tuple(self.routes),
            tuple(self.segments),
            dict(self.labels),
            dict(self.notes),
        )


@dataclass
class External:
    """Memory beside the chips, growing."""

    parts: list[NDArray] = field(default_factory=list)
    size: int = 0

    def add(self, data: NDArray) -> int:
        """The address of a copy of some bytes; word-aligned."""
        start, flat = self.size, np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self.parts += [flat, np.zeros(-len(flat) % ALIGNMENT, np.uint8)]
        self.size += len(flat) + -len(flat) % ALIGNMENT
        return start

    def contents(self) -> NDArray:
        """All bytes, uint8."""
        return np.concatenate([np.zeros(0, np.uint8), *self.parts])


@dataclass
class ProgramBuilder:
    """All cores. Every core's program is one endless loop, one turn per token."""

    machine: str = ""
    cores: dict[int, CoreBuilder] = field(default_factory=dict)
    tags: dict[int, int] = field(default_factory=dict)  # by receiver: how many are used
    shared: int = TAGS  # tags from here on are the same for all receivers
    external: External = field(default_factory=External)
    streamed: dict[int, list[tuple[int, int]]] = field(
        default_factory=dict
    )  # core: (address, bytes) of pieces

    def core(self, number: int, name: str = "") -> CoreBuilder:
        """A core's builder, opened with the head of its token loop where it is new."""
        if number not in self.cores:
            core = self.cores[number] = CoreBuilder(number, name)
            core.label("token")
        return self.cores[number]

    def tag(self, *receivers: int) -> int:
        """A tag under which nothing else comes to any of the receivers.

        Raises:
            TargetError: All are used.
        """
        chosen = max(self.tags.get(core, 0) for core in receivers)
        self.tags |= dict.fromkeys(receivers, chosen + 1)
        return self._checked(chosen)

    def shared_tag(self) -> int:
        """A tag under which nothing else comes to anyone: for receivers that are not known yet."""
        self.shared -= 1
        self._checked(max(self.tags.values(), default=0) - 1)
        return self.shared

    def stream(self, core: CoreBuilder, data: NDArray) -> Ref:
        """Bytes that lie at the beginning of a core's synapse memory from the next instruction on.

        A core's first piece is there when the program starts. Each further one is loaded over the one before,
        and the first again at the end of the token's turn.
        """
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        pieces = self.streamed.setdefault(core.core, [])
        if not pieces:
            if core.bytes_used:
                raise TargetError(f"core {core.core} ({core.name}) holds more than streamed weights")
            core.segments.append(Segment("s", 0, flat.tobytes()))
        pieces.append((self.external.add(flat), len(flat)))
        core.bytes_used = max(core.bytes_used, -(-len(flat) // ALIGNMENT) * ALIGNMENT)
        if len(pieces) > 1:
            core.emit("stream", Ref(0), *pieces[-1])
        return Ref(0)

    def _checked(self, tag: int) -> int:
        if tag >= self.shared:
            raise TargetError(f"a core of the program receives more than {TAGS} kinds of messages")
        return tag

    def build(self) -> Program:
        """Closes the token loops."""
        for core in self.cores.values():
            pieces = self.streamed.get(core.core, ())
            if len(pieces) > 1:
                core.note("weights of the next token's first layer")
                core.emit("stream", Ref(0), *pieces[0])
            core.emit("next")
            core.emit("jump", core.labels["token"])
        return Program(tuple(self.cores[number].build() for number in sorted(self.cores)), self.machine)
