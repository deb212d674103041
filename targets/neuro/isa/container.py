"""The binary container: one little-endian file with all cores, closed by a CRC-32 (layout in docs/isa.md)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final, Literal

from sdc.targets.neuro.isa.errors import BinaryError, EncodingError
from sdc.targets.neuro.isa.instruction import Instruction, decode, encode
from sdc.targets.neuro.isa.program import CoreProgram, Program, Route, Segment
from sdc.targets.neuro.isa.table import VERSION, WORD_BYTES

__all__ = ["MAGIC", "read", "write"]

MAGIC: Final = b"SDCNEURO"
_MEMORIES: Final[tuple[Literal["n", "s"], ...]] = ("n", "s")


def write(program: Program) -> bytes:
    """The container's bytes; equal programs give equal bytes.

    Raises:
        EncodingError: An instruction does not fit, with core and instruction named.
    """
    out = [MAGIC, struct.pack("<HH", *VERSION), _text(program.machine)]
    out.append(struct.pack("<I", len(program.barriers)))
    out += [_numbers(group) for group in program.barriers]
    out.append(struct.pack("<I", len(program.cores)))
    out += [_core(core) for core in program.cores]
    body = b"".join(out)
    return body + struct.pack("<I", zlib.crc32(body))


def read(data: bytes) -> Program:
    """The program of a container.

    Raises:
        BinaryError: Not such a file, another version, damaged, or an illegal instruction; with the offset.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise BinaryError(0, "not a neuromorphic program (the file must begin with SDCNEURO)")
    reader = _Reader(data, len(MAGIC))
    version = (reader.number("H"), reader.number("H"))
    if version[0] != VERSION[0] or version[1] > VERSION[1]:
        raise BinaryError(
            len(MAGIC),
            f"instruction set {version[0]}.{version[1]}; this sdc reads {VERSION[0]}.0 to "
            f"{VERSION[0]}.{VERSION[1]}: compile the model again",
        )
    machine = reader.text()
    barriers = tuple(reader.numbers() for _ in range(reader.number("I")))
    cores = tuple(_read_core(reader) for _ in range(reader.number("I")))
    body, stored = reader.offset, reader.number("I")
    if reader.offset != len(data):
        raise BinaryError(reader.offset, f"{len(data) - reader.offset} bytes after the end of the program")
    if zlib.crc32(data[:body]) != stored:
        raise BinaryError(body, "the checksum does not match: the file is damaged")
    return Program(cores, machine, barriers)


def _core(core: CoreProgram) -> bytes:
    out = [
        struct.pack("<I", core.core),
        _text(core.name),
        struct.pack("<II", core.neuron_words, core.synapse_bytes),
    ]
    out.append(struct.pack("<I", len(core.routes)))
    for route in core.routes:
        out.append(struct.pack("<H", route.tag) + _numbers(route.targets))
    out.append(struct.pack("<I", len(core.code)))
    for index, instruction in enumerate(core.code):
        try:
            out.append(encode(instruction))
        except EncodingError as error:
            raise EncodingError(f"core {core.core}, instruction {index}: {error}") from error
    out.append(struct.pack("<I", len(core.segments)))
    for segment in core.segments:
        code = _MEMORIES.index(segment.memory)
        out.append(struct.pack("<BII", code, segment.address, len(segment.data)) + segment.data)
    labels = sorted((index, name) for name, index in core.labels.items())
    for entries in (labels, sorted(core.notes.items())):
        out.append(struct.pack("<I", len(entries)))
        out += [struct.pack("<I", index) + _text(text) for index, text in entries]
    return b"".join(out)


def _read_core(reader: _Reader) -> CoreProgram:
    number, name = reader.number("I"), reader.text()
    words, size = reader.number("I"), reader.number("I")
    routes = tuple(Route(reader.number("H"), reader.numbers()) for _ in range(reader.number("I")))
    code = tuple(_read_instruction(reader, number, index) for index in range(reader.number("I")))
    segments = tuple(_read_segment(reader) for _ in range(reader.number("I")))
    labels = [(reader.number("I"), reader.text()) for _ in range(reader.number("I"))]
    notes = [(reader.number("I"), reader.text()) for _ in range(reader.number("I"))]
    by_name = {text: index for index, text in labels}
    return CoreProgram(number, name, words, size, code, routes, segments, by_name, dict(notes))


def _read_instruction(reader: _Reader, core: int, index: int) -> Instruction:
    offset = reader.offset
    try:
        return decode(reader.take(WORD_BYTES))
    except EncodingError as error:
        raise BinaryError(offset, f"core {core}, instruction {index}: {error}") from error


def _read_segment(reader: _Reader) -> Segment:
    offset, code = reader.offset, reader.number("B")
    if code >= len(_MEMORIES):
        raise BinaryError(offset, f"a segment for memory {code}, which does not exist")
    address = reader.number("I")
    return Segment(_MEMORIES[code], address, reader.take(reader.number("I")))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _numbers(numbers: tuple[int, ...]) -> bytes:
    return struct.pack(f"<I{len(numbers)}I", len(numbers), *numbers)


@dataclass
class _Reader:
    data: bytes
    offset: int

    def take(self, count: int) -> bytes:
        end = self.offset + count
        if end > len(self.data):
            raise BinaryError(self.offset, f"the file ends {end - len(self.data)} bytes too early")
        piece, self.offset = self.data[self.offset : end], end
        return piece

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def numbers(self) -> tuple[int, ...]:
        count = self.number("I")
        return struct.unpack(f"<{count}I", self.take(4 * count))

    def text(self) -> str:
        size = self.number("I")
        offset = self.offset
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise BinaryError(offset, "text that is not UTF-8") from error
