"""Operand fields: how a value becomes bits, and how it reads in assembly text."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sdc.targets.neuro.isa.errors import EncodingError

__all__ = ["Field", "Length", "Operand", "Ref"]

BASE_BITS = 3
N_BITS, S_BITS = 20, 24
LENGTH_BITS = 16

Kind = Literal["n", "s", "length", "unsigned", "signed", "float", "choice", "label"]


@dataclass(frozen=True, order=True)
class Ref:
    """An address in one of the memories, relative to a base register; register 0 always holds zero."""

    address: int
    base: int = 0


@dataclass(frozen=True, order=True)
class Length:
    """A vector length; where ``keys``, the smaller of it and the tokens seen so far (position + 1)."""

    value: int
    keys: bool = False


Operand = Ref | Length | int | float | str


@dataclass(frozen=True)
class Field:
    """One operand of an instruction.

    Attributes:
        bits: Width for ``unsigned``, ``signed``, ``choice`` and ``label``; the other kinds have a fixed one.
        choices: Names of a ``choice``, in the order of their codes.
    """

    name: str
    kind: Kind
    bits: int = 0
    choices: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Bits of the field."""
        fixed = {"n": N_BITS + BASE_BITS, "s": S_BITS + BASE_BITS, "length": LENGTH_BITS + 1, "float": 32}
        return fixed.get(self.kind, self.bits)

    def encode(self, value: Operand) -> int:
        """The field's bits.

        Raises:
            EncodingError: The value has the wrong type or does not fit.
        """
        if self.kind in ("n", "s"):
            return self._encode_ref(value)
        if self.kind == "length":
            if not isinstance(value, Length) or not 0 <= value.value < 1 << LENGTH_BITS:
                raise self._misfit(value)
            return value.value | value.keys << LENGTH_BITS
        if self.kind == "float":
            return self._encode_float(value)
        if self.kind == "choice":
            if value not in self.choices:
                raise self._misfit(value, f"one of {', '.join(self.choices)}")
            return self.choices.index(str(value))
        return self._encode_integer(value)

    def decode(self, bits: int) -> Operand:
        """The value that :meth:`encode` turns into ``bits``.

        Raises:
            EncodingError: No value has these bits.
        """
        if self.kind in ("n", "s"):
            wide = self.width - BASE_BITS
            return Ref(bits & ((1 << wide) - 1), bits >> wide)
        if self.kind == "length":
            return Length(bits & ((1 << LENGTH_BITS) - 1), bool(bits >> LENGTH_BITS))
        if self.kind == "float":
            number = struct.unpack("<f", struct.pack("<I", bits))[0]
            if not np.isfinite(number):
                raise EncodingError(f"operand {self.name}: the constant is not finite")
            return float(number)
        if self.kind == "choice":
            if bits >= len(self.choices):
                raise EncodingError(f"operand {self.name}: code {bits} has no meaning")
            return self.choices[bits]
        if self.kind == "signed" and bits >> (self.bits - 1):
            return bits - (1 << self.bits)
        return bits

    def format(self, value: Operand) -> str:
        """The value as assembly text."""
        if isinstance(value, Ref):
            base = f"+b{value.base}" if value.base else ""
            return f"{self.kind}[{value.address:#x}{base}]"
        if isinstance(value, Length):
            return f"keys({value.value})" if value.keys else str(value.value)
        if self.kind == "float":
            return str(np.float32(value))
        return str(value)

    def parse(self, text: str) -> Operand:
        """The value of assembly text; labels are resolved before.

        Raises:
            EncodingError: The text is no value of this field.
        """
        if self.kind in ("n", "s"):
            match = re.fullmatch(rf"{self.kind}\[(0x[0-9a-f]+|\d+)(?:\+b(\d))?\]", text)
            if match is None:
                raise self._misfit(text, f"{self.kind}[ADDRESS] or {self.kind}[ADDRESS+bREGISTER]")
            return Ref(int(match[1], 0), int(match[2] or 0))
        if self.kind == "length":
            match = re.fullmatch(r"(keys\()?(\d+)(\))?", text)
            if match is None or bool(match[1]) != bool(match[3]):
                raise self._misfit(text, "N or keys(N)")
            return Length(int(match[2]), bool(match[1]))
        if self.kind == "choice":
            return text
        try:
            return float(text) if self.kind == "float" else int(text, 0)
        except ValueError as error:
            raise self._misfit(text, "a number") from error

    def _encode_ref(self, value: Operand) -> int:
        wide = self.width - BASE_BITS
        if not isinstance(value, Ref) or not 0 <= value.address < 1 << wide or not 0 <= value.base < 8:
            raise self._misfit(value, f"an address below {1 << wide:#x} and a base register of 0 to 7")
        return value.address | value.base << wide

    def _encode_float(self, value: Operand) -> int:
        if not isinstance(value, float | int) or not np.isfinite(np.float32(value)):
            raise self._misfit(value, "a finite float32")
        return int(struct.unpack("<I", struct.pack("<f", np.float32(value)))[0])

    def _encode_integer(self, value: Operand) -> int:
        low, high = (
            (0, 1 << self.bits) if self.kind != "signed" else (-(1 << self.bits - 1), 1 << self.bits - 1)
        )
        if not isinstance(value, int) or not low <= value < high:
            raise self._misfit(value, f"an integer within {low}..{high - 1}")
        return value & ((1 << self.bits) - 1)

    def _misfit(self, value: object, wanted: str = "a length below 65536") -> EncodingError:
        return EncodingError(f"operand {self.name}: {value!r} does not fit; expected {wanted}")
