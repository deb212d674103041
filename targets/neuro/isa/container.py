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
TAG_BITS: Final = 12
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
    cores = _read_cores(reader)
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


def _read_cores(reader: _Reader) -> tuple[CoreProgram, ...]:
    cores: list[CoreProgram] = []
    for _ in range(reader.number("I")):
        offset = reader.offset
        cores.append(_read_core(reader))
        if len(cores) > 1 and cores[-1].core <= cores[-2].core:
            raise BinaryError(offset, f"core {cores[-1].core} comes after core {cores[-2].core}")
    return tuple(cores)


def _read_core(reader: _Reader) -> CoreProgram:
    number, name = reader.number("I"), reader.text()
    words, size = reader.number("I"), reader.number("I")
    routes = tuple(_read_route(reader) for _ in range(reader.number("I")))
    code = tuple(_read_instruction(reader, number, index) for index in range(reader.number("I")))
    segments = tuple(_read_segment(reader) for _ in range(reader.number("I")))
    offset = reader.offset
    labels = _read_texts(reader, len(code))
    by_name = {text: index for index, text in labels}
    if len(by_name) < len(labels):
        raise BinaryError(offset, f"core {number}: a label stands twice")
    offset = reader.offset
    notes = dict(texts := _read_texts(reader, len(code)))
    if len(notes) < len(texts):
        raise BinaryError(offset, f"core {number}: two notes before one instruction")
    return CoreProgram(number, name, words, size, code, routes, segments, by_name, notes)


def _read_route(reader: _Reader) -> Route:
    offset, tag = reader.offset, reader.number("H")
    if tag >> TAG_BITS:
        raise BinaryError(offset, f"tag {tag}; tags have {TAG_BITS} bits")
    return Route(tag, reader.numbers())


def _read_texts(reader: _Reader, end: int) -> list[tuple[int, str]]:
    """Labels or notes: (instruction, text), ascending."""
    texts: list[tuple[int, str]] = []
    for _ in range(reader.number("I")):
        offset = reader.offset
        texts.append((reader.number("I"), reader.text()))
        if texts[-1][0] > end or texts[-1:] < texts[-2:-1]:
            raise BinaryError(offset, f"a text at instruction {texts[-1][0]} of {end}, or out of order")
    return texts


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
