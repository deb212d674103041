"""Instruction table, bits, text and container: every way there and back, and what is wrong with bad input."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.targets.neuro.isa.api import assemble_file, disassemble_file
from sdc.targets.neuro.isa.assembler import assemble
from sdc.targets.neuro.isa.container import read, write
from sdc.targets.neuro.isa.disassembler import disassemble
from sdc.targets.neuro.isa.document import insert_tables
from sdc.targets.neuro.isa.errors import AssemblyError, BinaryError, EncodingError
from sdc.targets.neuro.isa.fields import Field, Length, Ref
from sdc.targets.neuro.isa.instruction import Instruction, decode, encode
from sdc.targets.neuro.isa.program import HOST, CoreProgram, Program, Route, Segment
from sdc.targets.neuro.isa.table import BY_NAME, INSTRUCTIONS

PAGE = Path(__file__).parents[3] / "docs" / "isa.md"


def operand(field: Field) -> st.SearchStrategy:
    if field.kind in ("n", "s"):
        return st.builds(Ref, st.integers(0, (1 << field.width - 3) - 1), st.integers(0, 7))
    if field.kind == "length":
        return st.builds(Length, st.integers(0, 65535), st.booleans())
    if field.kind == "float":
        return st.floats(width=32, allow_nan=False, allow_infinity=False)
    if field.kind == "choice":
        return st.sampled_from(field.choices)
    low = -(1 << field.bits - 1) if field.kind == "signed" else 0
    return st.integers(low, low + (1 << field.bits) - 1)


instructions = st.sampled_from(INSTRUCTIONS).flatmap(
    lambda spec: st.tuples(*map(operand, spec.fields)).map(lambda values: Instruction(spec.name, values))
)
numbers = st.lists(st.integers(0, HOST), max_size=4).map(tuple)
note = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1).map(
    lambda s: f"a {s}; {s}"
)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    cores = []
    for number in sorted(draw(st.sets(st.integers(0, 4000), max_size=3))):
        code = tuple(draw(st.lists(instructions, max_size=6)))
        where = st.integers(0, len(code))
        labels = draw(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,6}", fullmatch=True), where))
        routes = tuple(
            Route(t, c) for t, c in draw(st.lists(st.tuples(st.integers(0, 4095), numbers), max_size=3))
        )
        segments = tuple(
            Segment(m, a, d)
            for m, a, d in draw(
                st.lists(
                    st.tuples(st.sampled_from(["n", "s"]), st.integers(0, 99), st.binary(max_size=70)),
                    max_size=2,
                )
            )
        )
        notes = draw(st.dictionaries(where, st.lists(note, min_size=1, max_size=2).map("\n".join)))
        cores.append(
            CoreProgram(number, draw(st.text(max_size=9)), 7, 9, code, routes, segments, labels, notes)
        )
    return Program(tuple(cores), draw(st.text(max_size=5)), tuple(draw(st.lists(numbers, max_size=2))))


@pytest.mark.parametrize("spec", INSTRUCTIONS, ids=lambda spec: spec.name)
def test_fields_of_every_instruction_fit_its_word_and_names_are_its_own(spec) -> None:
    assert spec.used_bits <= 128
    assert sum(other.opcode == spec.opcode or other.name == spec.name for other in INSTRUCTIONS) == 1
    assert len({field.name for field in spec.fields}) == len(spec.fields)


@pytest.mark.parametrize("spec", INSTRUCTIONS, ids=lambda spec: spec.name)
def test_every_instruction_survives_bits_and_text(spec) -> None:
    @settings(max_examples=25)
    @given(st.tuples(*map(operand, spec.fields)))
    def check(values: tuple) -> None:
        instruction = Instruction(spec.name, values)
        word = encode(instruction)
        assert len(word) == 16
        assert word[0] == spec.opcode
        assert decode(word) == instruction
        text = assemble(f".core 0\n{instruction}\n").cores[0].code
        assert encode(text[0]) == word  # compares bits, so that -0.0 is not 0.0

    check()


@settings(max_examples=60)
@given(programs())
def test_programs_survive_binary_and_text(program: Program) -> None:
    binary = write(program)
    assert read(binary) == program
    text = disassemble(program)
    assert write(assemble(text)) == binary
    assert disassemble(assemble(text)) == text


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_file_is_an_error_with_an_offset(data: st.DataObject) -> None:
    binary = write(assemble(SAMPLE))
    if data.draw(st.booleans()):
        damaged = binary[: data.draw(st.integers(0, len(binary) - 1))]
    else:
        at = data.draw(st.integers(0, len(binary) - 1))
        damaged = binary[:at] + bytes([binary[at] ^ data.draw(st.integers(1, 255))]) + binary[at + 1 :]
    with pytest.raises(BinaryError, match=r"^offset 0x[0-9a-f]+: "):
        read(damaged)


@settings(max_examples=150)
@given(programs(), st.data())
def test_a_damaged_file_with_a_right_checksum_is_refused_or_means_what_it_says(
    program: Program, data: st.DataObject
) -> None:
    """Either an error with an offset, or a program whose binary is that very file: nothing in between."""
    body = bytearray(write(program)[:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["flip", "number", "cut", "insert"]))
        at = data.draw(st.integers(0, len(body) - 1))
        if kind == "flip":
            body[at] ^= data.draw(st.integers(1, 255))
        elif kind == "number":
            number = data.draw(st.sampled_from([0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF]))
            body[at : at + 4] = struct.pack("<I", number)
        elif kind == "cut":
            del body[at : at + data.draw(st.integers(1, 20))]
        else:
            body[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        if not body:
            body = bytearray(b"x")
    damaged = bytes(body) + struct.pack("<I", zlib.crc32(bytes(body)))
    error = refusal(damaged)
    if error is None:
        assert write(read(damaged)) == damaged
    else:
        assert 0 <= error.offset <= len(damaged)
        assert str(error).startswith(f"offset {error.offset:#x}: ")


def refusal(binary: bytes) -> BinaryError | None:
    try:
        read(binary)
    except BinaryError as error:
        return error
    return None


def test_the_page_holds_exactly_the_table() -> None:
    page = PAGE.read_text()
    assert insert_tables(page) == page
    listed = re.findall(r"^\| `(\w+)[^`]*` \| 0x", page, re.M)
    assert listed == [spec.name for spec in INSTRUCTIONS]
    assert f"| instructions | {len(INSTRUCTIONS)}, " in page


def test_the_example_of_the_page_assembles() -> None:
    block = re.search(r"((?:^    .*\n)*^    \.core(?:.*\n    )*.*\n)", PAGE.read_text(), re.M)
    assert block is not None
    core = assemble(block[1]).cores[0]
    assert [i.name for i in core.code].count("accum") == 1
    assert core.labels == {"token": 1}


SAMPLE = """.isa 1.0
.machine "generic"
.barrier 3, 4
.core 3 "up; rows 0..31"
.memory n 64
.memory s 0x20
.route 0 tag 7 to 1, host
.data s 0x4
    00ff10
.code
;; layers.0.mlp.up
    loop 4 ; steps
        accum 3, 0, bitwise, 1
    endl
again:
    vadd n[0x10], n[16], n[0x20+b1], keys(32)
    jump again
"""


def test_a_dump_reads_well() -> None:
    assert disassemble(assemble(SAMPLE), {3}, data=False).split(".core")[1] == (
        ' 3 "up; rows 0..31"\n.memory n 64\n.memory s 32\n.route 0 tag 7 to 1, host\n'
        "; data s 0x4: 3 bytes, sha256 2da45f2cd1f9c8e6...\n"
        ".code\n;; layers.0.mlp.up\n"
        "    loop    4\n        accum   3, 0, bitwise, 1\n    endl\n"
        "again:\n    vadd    n[0x10], n[0x10], n[0x20+b1], keys(32)\n    jump    again\n"
    )


def test_files_go_there_and_back(tmp_path: Path) -> None:
    source, binary = tmp_path / "a.s", tmp_path / "a.bin"
    source.write_text(SAMPLE)
    program = assemble_file(source, binary)
    assert assemble(disassemble_file(binary, data=True)) == program
    assert "accum" in disassemble_file(binary, {3})
    with pytest.raises(Exception, match="no program for core 9; it has 1 cores"):
        disassemble_file(binary, {9})
    with pytest.raises(Exception, match="cannot be read: No such file"):
        disassemble_file(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vadd n[0], n[0], n[0], 1", "line 1: this needs a .core line"),
        (".core 0\n\nfly n[0]", "line 3: unknown instruction 'fly'"),
        (".core 0\nvadd n[0]", r"line 2: vadd takes 4 operands \(dst, a, b, len\), got 1"),
        (".core 0\nvadd n[0], s[0], n[0], 1", r"line 2: operand a: 's\[0\]' does not fit"),
        (".core 0\nvadd n[0x100000], n[0], n[0], 1", "line 2: vadd: operand dst: "),
        (".core 0\njump nowhere", "line 2: operand target: 'nowhere' does not fit"),
        (
            ".core 0\naccum 4096, 0, ternary, 1",
            "operand tag: 4096 does not fit; expected an integer within 0..4095",
        ),
        (".core 0\naccum 1, 0, morse, 1", "expected one of ternary, bitwise, binary"),
        (".core 0\nfill n[0], nan, 1", "a finite float32"),
        (".core 0\na:\na:", "line 3: label a stands twice in core 0"),
        (".core 0\n.core 0", "line 2: core 0 stands twice"),
        (".isa 2.0", "line 1: instruction set 2.0"),
        (".core 0\n.route 1 tag 0 to 1", "line 2: expected .route 0 tag T"),
        (".core 0\n.data x 0", "line 2: no memory 'x'"),
        (".core 0\n.data s 0\n  0g", "line 3: "),
        (".fnord", "unknown directive .fnord; known: isa, machine"),
    ],
)
def test_bad_text_names_its_line(text: str, message: str) -> None:
    with pytest.raises(AssemblyError, match=message):
        assemble(text)


def test_bad_words_are_refused() -> None:
    with pytest.raises(EncodingError, match="illegal opcode 0xff"):
        decode(bytes([0xFF] + [0] * 15))
    with pytest.raises(EncodingError, match="nop: bits above 7 must be zero"):
        decode(bytes([0] * 15 + [1]))
    with pytest.raises(EncodingError, match="an instruction has 16 bytes, got 3"):
        decode(b"abc")
    send = BY_NAME["send"]
    low = next(low for low, field in send.layout() if field.name == "coding")
    with pytest.raises(EncodingError, match="operand coding: code 3 has no meaning"):
        decode((send.opcode | 3 << low).to_bytes(16, "little"))
    fill = BY_NAME["fill"]
    low = next(low for low, field in fill.layout() if field.name == "value")
    infinity = struct.unpack("<I", np.float32(np.inf).tobytes())[0]
    with pytest.raises(EncodingError, match="operand value: the constant is not finite"):
        decode((fill.opcode | infinity << low).to_bytes(16, "little"))
    with pytest.raises(EncodingError, match="core 2, instruction 0: nop takes 0 operands, got 1"):
        write(Program((CoreProgram(2, code=(Instruction("nop", (1,)),)),)))


def test_bad_files_say_what_is_wrong() -> None:
    binary = write(assemble(SAMPLE))
    with pytest.raises(BinaryError, match="offset 0x0: not a neuromorphic program"):
        read(b"ELF")
    with pytest.raises(BinaryError, match=r"offset 0x8: instruction set 2\.0; this sdc reads 1\.0"):
        read(binary[:8] + struct.pack("<H", 2) + binary[10:])
    with pytest.raises(BinaryError, match="3 bytes after the end"):
        read(binary + b"abc")
    with pytest.raises(BinaryError, match="the checksum does not match"):
        read(binary[:-1] + bytes([binary[-1] ^ 1]))
    at = binary.index(encode(Instruction("endl")))
    body = binary[:at] + b"\xee" + binary[at + 1 : -4]
    with pytest.raises(BinaryError, match=rf"offset {at:#x}: core 3, instruction 2: illegal opcode 0xee"):
        read(body + struct.pack("<I", zlib.crc32(body)))
