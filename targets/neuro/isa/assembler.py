"""Assembly text to programs: the inverse of the disassembler, and lenient about white space and comments."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Literal

from sdc.targets.neuro.isa.errors import AssemblyError, EncodingError
from sdc.targets.neuro.isa.fields import Operand
from sdc.targets.neuro.isa.instruction import Instruction, encode
from sdc.targets.neuro.isa.program import HOST, CoreProgram, Program, Route, Segment
from sdc.targets.neuro.isa.table import BY_NAME, VERSION

__all__ = ["assemble"]

_LABEL = re.compile(r"([A-Za-z_][\w.]*):")


def assemble(text: str) -> Program:
    """The program of assembly text.

    ``;`` begins a comment; a line that begins with ``;;`` is a note, which the program keeps.

    Raises:
        AssemblyError: A line cannot be understood; with its number.
    """
    state = _Assembly()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            state.line(number, line.strip())
        except (EncodingError, ValueError) as error:
            raise AssemblyError(number, str(error)) from error
    state.close_core()
    return Program(
        tuple(sorted(state.cores, key=lambda core: core.core)), state.machine, tuple(state.barriers)
    )


@dataclass
class _Core:
    number: int
    name: str
    memory: dict[str, int] = field(default_factory=lambda: {"n": 0, "s": 0})
    routes: list[Route] = field(default_factory=list)
    segments: list[tuple[Literal["n", "s"], int, bytearray]] = field(default_factory=list)
    code: list[tuple[int, str, list[str]]] = field(default_factory=list)  # line, name, operand texts
    labels: dict[str, int] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)


@dataclass
class _Assembly:
    machine: str = ""
    barriers: list[tuple[int, ...]] = field(default_factory=list)
    cores: list[CoreProgram] = field(default_factory=list)
    open: _Core | None = None
    in_data: bool = False

    def line(self, number: int, line: str) -> None:
        if line.startswith(";;"):
            self.note(line[2:].removeprefix(" "))
            return
        if not line.startswith((".core", ".machine")):
            line = line.split(";")[0].strip()
        if not line:
            return
        if line.startswith("."):
            word, _, rest = line[1:].partition(" ")
            self.in_data = False
            self.directive(word, rest.strip())
        elif self.in_data:
            self.core.segments[-1][2].extend(bytes.fromhex(line))
        elif match := _LABEL.fullmatch(line):
            if match[1] in self.core.labels:
                raise ValueError(f"label {match[1]} stands twice in core {self.core.number}")
            self.core.labels[match[1]] = len(self.core.code)
        else:
            name, _, rest = line.partition(" ")
            operands = [text.strip() for text in rest.split(",")] if rest.strip() else []
            self.core.code.append((number, name, operands))

    @property
    def core(self) -> _Core:
        if self.open is None:
            raise ValueError("this needs a .core line before it")
        return self.open

    def note(self, text: str) -> None:
        before = self.core.notes.get(len(self.core.code))
        self.core.notes[len(self.core.code)] = text if before is None else f"{before}\n{text}"

    def directive(self, word: str, rest: str) -> None:
        handlers = {
            "isa": self.on_isa,
            "machine": self.on_machine,
            "barrier": self.on_barrier,
            "core": self.on_core,
            "memory": self.on_memory,
            "route": self.on_route,
            "data": self.on_data,
            "code": self.on_code,
        }
        if word not in handlers:
            raise ValueError(f"unknown directive .{word}; known: {', '.join(handlers)}")
        handlers[word](rest)

    def on_isa(self, rest: str) -> None:
        major, minor = (int(part) for part in rest.split("."))
        if major != VERSION[0] or minor > VERSION[1]:
            raise ValueError(f"instruction set {rest}; this sdc assembles {VERSION[0]}.{VERSION[1]}")

    def on_machine(self, rest: str) -> None:
        self.machine = json.loads(rest)

    def on_barrier(self, rest: str) -> None:
        self.barriers.append(tuple(int(part) for part in rest.split(",") if part.strip()))

    def on_core(self, rest: str) -> None:
        self.close_core()
        number, _, name = rest.partition(" ")
        if any(core.core == int(number) for core in self.cores):
            raise ValueError(f"core {number} stands twice")
        self.open = _Core(int(number), json.loads(name) if name else "")

    def on_memory(self, rest: str) -> None:
        memory, size = rest.split()
        self.core.memory[_memory(memory)] = int(size, 0)

    def on_route(self, rest: str) -> None:
        match = re.fullmatch(r"(\d+) tag (\d+) to ?(.*)", rest)
        if match is None or int(match[1]) != len(self.core.routes):
            raise ValueError(f"expected .route {len(self.core.routes)} tag T to CORE, ...")
        parts = [part.strip() for part in match[3].split(",") if part.strip()]
        targets = tuple(HOST if part == "host" else int(part) for part in parts)
        self.core.routes.append(Route(int(match[2]), targets))

    def on_data(self, rest: str) -> None:
        memory, address = rest.split()
        self.core.segments.append((_memory(memory), int(address, 0), bytearray()))
        self.in_data = True

    def on_code(self, rest: str) -> None:
        if rest or self.core.code:
            raise ValueError(".code stands once per core, alone on its line")

    def close_core(self) -> None:
        if self.open is None:
            return
        core, self.open = self.open, None
        self.cores.append(
            CoreProgram(
                core.number,
                core.name,
                core.memory["n"],
                core.memory["s"],
                tuple(_instruction(core, *entry) for entry in core.code),
                tuple(core.routes),
                tuple(Segment(memory, address, bytes(data)) for memory, address, data in core.segments),
                core.labels,
                core.notes,
            )
        )


def _memory(name: str) -> Literal["n", "s"]:
    if name == "n":
        return "n"
    if name == "s":
        return "s"
    raise ValueError(f"no memory {name!r}; there are n and s")


def _instruction(core: _Core, line: int, name: str, texts: list[str]) -> Instruction:
    if name not in BY_NAME:
        raise AssemblyError(line, f"unknown instruction {name!r}; docs/isa.md lists them")
    fields = BY_NAME[name].fields
    if len(fields) != len(texts):
        wanted = ", ".join(field.name for field in fields) or "none"
        raise AssemblyError(line, f"{name} takes {len(fields)} operands ({wanted}), got {len(texts)}")
    try:
        operands: list[Operand] = []
        for spec, text in zip(fields, texts, strict=True):
            known = core.labels.get(text) if spec.kind == "label" else None
            operands.append(spec.parse(text) if known is None else known)
        instruction = Instruction(name, tuple(operands))
        encode(instruction)
    except EncodingError as error:
        raise AssemblyError(line, str(error)) from error
    return instruction
