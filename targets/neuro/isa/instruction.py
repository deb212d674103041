"""Instructions as values, and as 128-bit words."""

from __future__ import annotations

from dataclasses import dataclass

from sdc.targets.neuro.isa.errors import EncodingError
from sdc.targets.neuro.isa.fields import Operand
from sdc.targets.neuro.isa.table import BY_NAME, BY_OPCODE, OPCODE_BITS, WORD_BYTES, InstructionSpec

__all__ = ["Instruction", "decode", "encode"]


@dataclass(frozen=True)
class Instruction:
    """A mnemonic with its operands, in the table's order."""

    name: str
    operands: tuple[Operand, ...] = ()

    @property
    def spec(self) -> InstructionSpec:
        """The table's entry.

        Raises:
            EncodingError: There is no such instruction.
        """
        if self.name not in BY_NAME:
            raise EncodingError(f"unknown instruction {self.name!r}; docs/isa.md lists them")
        return BY_NAME[self.name]

    def __str__(self) -> str:
        texts = [field.format(value) for field, value in zip(self.spec.fields, self.operands, strict=True)]
        return f"{self.name:<8}{', '.join(texts)}".rstrip()


def encode(instruction: Instruction) -> bytes:
    """The instruction's word, 16 bytes, little-endian.

    Raises:
        EncodingError: Wrong number of operands, or one does not fit.
    """
    spec = instruction.spec
    if len(instruction.operands) != len(spec.fields):
        raise EncodingError(f"{spec.name} takes {len(spec.fields)} operands, got {len(instruction.operands)}")
    word = spec.opcode
    for (low, field), value in zip(spec.layout(), instruction.operands, strict=True):
        try:
            word |= field.encode(value) << low
        except EncodingError as error:
            raise EncodingError(f"{spec.name}: {error}") from error
    return word.to_bytes(WORD_BYTES, "little")


def decode(data: bytes) -> Instruction:
    """The instruction of one 16-byte word.

    Raises:
        EncodingError: Unknown opcode, a field without meaning, or bits set beyond the last field.
    """
    if len(data) != WORD_BYTES:
        raise EncodingError(f"an instruction has {WORD_BYTES} bytes, got {len(data)}")
    word = int.from_bytes(data, "little")
    opcode = word & ((1 << OPCODE_BITS) - 1)
    if opcode not in BY_OPCODE:
        raise EncodingError(f"illegal opcode {opcode:#04x}")
    spec = BY_OPCODE[opcode]
    if word >> spec.used_bits:
        raise EncodingError(f"{spec.name}: bits above {spec.used_bits - 1} must be zero")
    values = (field.decode(word >> low & ((1 << field.width) - 1)) for low, field in spec.layout())
    return Instruction(spec.name, tuple(values))
