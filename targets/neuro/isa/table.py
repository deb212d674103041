"""The instruction set as data: encoder, decoder, assembler, disassembler and docs/isa.md are made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sdc.targets.neuro.isa.fields import Field

__all__ = [
    "BY_NAME",
    "BY_OPCODE",
    "GROUPS",
    "INSTRUCTIONS",
    "OPCODE_BITS",
    "VERSION",
    "WORD_BYTES",
    "InstructionSpec",
]

VERSION: Final = (1, 0)
WORD_BYTES: Final = 16
OPCODE_BITS: Final = 8

CODINGS: Final = ("ternary", "bitwise", "binary")


@dataclass(frozen=True)
class InstructionSpec:
    """One instruction.

    Attributes:
        fields: Operands in the order of assembly text, packed upwards from bit 8.
        semantics: Pseudo-code; ``f``, ``i`` are the neuron memory as float32 and int32 words.
    """

    name: str
    opcode: int
    group: str
    fields: tuple[Field, ...]
    semantics: str

    def layout(self) -> Iterator[tuple[int, Field]]:
        """(lowest bit, field), ascending."""
        low = OPCODE_BITS
        for field in self.fields:
            yield low, field
            low += field.width

    @property
    def used_bits(self) -> int:
        """Bits from 0 to the end of the last field."""
        return OPCODE_BITS + sum(field.width for field in self.fields)


def _n(name: str) -> Field:
    return Field(name, "n")


def _s(name: str) -> Field:
    return Field(name, "s")


def _u(name: str, bits: int) -> Field:
    return Field(name, "unsigned", bits)


_LEN = Field("len", "length")
_TAG = _u("tag", 12)
_ROUTE = _u("route", 12)
_SOURCES = _u("sources", 16)
_DST, _SRC, _A, _B = _n("dst"), _n("src"), _n("a"), _n("b")


def _binary(name: str, opcode: int, expression: str) -> InstructionSpec:
    text = f"for k < len: f[dst+k] = {expression}"
    return InstructionSpec(name, opcode, "vector unit", (_DST, _A, _B, _LEN), text)


def _unary(name: str, opcode: int, expression: str) -> InstructionSpec:
    text = f"for k < len: f[dst+k] = {expression}"
    return InstructionSpec(name, opcode, "vector unit", (_DST, _SRC, _LEN), text)


_CONTROL = (
    InstructionSpec("nop", 0x00, "control", (), "nothing"),
    InstructionSpec("halt", 0x01, "control", (), "stop this core for good"),
    InstructionSpec("jump", 0x02, "control", (Field("target", "label", 24),), "pc = target"),
    InstructionSpec(
        "loop",
        0x03,
        "control",
        (_u("count", 16),),
        "push (pc + 1, count, 0) on the loop stack; count = 0 raises LOOP; more than 8 levels raise LOOP",
    ),
    InstructionSpec(
        "endl",
        0x04,
        "control",
        (),
        "top of the loop stack: iteration += 1; if iteration < "
        "count: pc = start, else pop; empty stack raises LOOP",
    ),
    InstructionSpec(
        "base",
        0x05,
        "control",
        (_u("reg", 3), Field("value", "signed", 32)),
        "b[reg] = value; reg = 0 raises BASE",
    ),
    InstructionSpec(
        "adv",
        0x06,
        "control",
        (_u("reg", 3), Field("value", "signed", 32)),
        "b[reg] += value; reg = 0 raises BASE",
    ),
    InstructionSpec("next", 0x07, "control", (), "pos += 1"),
    InstructionSpec("pos", 0x09, "control", (_DST,), "i[dst] = pos"),
    InstructionSpec(
        "barrier",
        0x08,
        "control",
        (_u("group", 8),),
        "wait until every core of the barrier group has come here",
    ),
)

_LOAD = (
    InstructionSpec(
        "fill",
        0x10,
        "load and config",
        (_DST, Field("value", "float"), _LEN),
        "for k < len: f[dst+k] = value",
    ),
    InstructionSpec("copy", 0x11, "load and config", (_DST, _SRC, _LEN), "for k < len: i[dst+k] = i[src+k]"),
    InstructionSpec(
        "ldw",
        0x12,
        "load and config",
        (_DST, _s("from"), _LEN),
        "for k < len: i[dst+k] = word at s[from + 4 k]",
    ),
    InstructionSpec(
        "gather",
        0x13,
        "load and config",
        (_DST, _s("table"), _n("row"), _LEN, _u("rows", 24)),
        "r = i[row]; r outside 0..rows-1 raises RANGE; for k < len: "
        "i[dst+k] = word at s[table + 4 (r len + k)]",
    ),
    InstructionSpec(
        "stream",
        0x14,
        "load and config",
        (_s("to"), _u("from", 40), _u("bytes", 24)),
        "for k < bytes: s[to+k] = external memory[from+k] (weights that the core has no room to keep)",
    ),
    InstructionSpec(
        "fetch",
        0x16,
        "load and config",
        (_s("to"), _u("from", 40), _n("row"), _u("bytes", 24)),
        "for k < bytes: s[to+k] = external memory[from + i[row] bytes + k] (a row of a table kept outside)",
    ),
    InstructionSpec(
        "slot",
        0x15,
        "load and config",
        (
            _u("slot", 2),
            _s("rows"),
            _u("stride", 24),
            Field("outputs", "length"),
            _u("group", 16),
            Field("bits", "choice", 2, ("2", "4", "8", "16")),
            _n("acc"),
        ),
        "synapse[slot] = (rows, stride, outputs, group, bits, acc): "
        "the row of axon k starts at s[rows + k stride] "
        "and holds `outputs` signed weights of `bits`, packed from the low bits up; it feeds accumulators "
        "i[acc + (k / group) outputs + n]",
    ),
)

_ENCODE = (
    InstructionSpec(
        "theta",
        0x20,
        "encode",
        (_DST, _SRC, _LEN, _u("group", 16), Field("factor", "float")),
        "for g < len / group: f[dst+g] = max over k in group g of "
        "|f[src+k]|, times factor (= clip_ratio / levels); "
        "NaN or infinity raises NUMERIC",
    ),
    InstructionSpec(
        "mute",
        0x21,
        "encode",
        (_n("x"), _n("theta"), _LEN, _u("group", 16), Field("zone", "float")),
        "for k < len: if |f[x+k]| < zone * f[theta + k/group]: f[x+k] = 0 (dead zone)",
    ),
    InstructionSpec(
        "count",
        0x22,
        "encode",
        (
            _DST,
            _SRC,
            _n("theta"),
            _LEN,
            _u("group", 15),
            _u("levels", 15),
            Field("sign", "choice", 1, ("s", "u")),
        ),
        "for k < len: t = f[theta + k/group]; "
        "i[dst+k] = t > 0 ? clip(round_half_even(f[src+k] / t), sign == s ? -levels : 0, levels) : 0",
    ),
    InstructionSpec(
        "had",
        0x23,
        "encode",
        (_n("x"), _n("signs"), _LEN, _u("log2block", 4)),
        "f[x+k] *= f[signs+k] (a sign change); then for h = 1, 2, 4 "
        ".. block/2: for each pair (k, k+h) of a block: "
        "(f[x+k], f[x+k+h]) = (f[x+k] + f[x+k+h], f[x+k] - f[x+k+h])",
    ),
)

_EVENTS = (
    InstructionSpec(
        "send",
        0x30,
        "events",
        (_n("counts"), _LEN, Field("coding", "choice", 2, CODINGS), _ROUTE, _u("index", 16)),
        "t = iteration, T = count of the innermost loop; for k < len: s = i[counts+k]; "
        "ternary: fire = |s| > t; bitwise: fire = bit t of |s|; "
        "binary: fire = t < T/2 ? s > t : -s > t - T/2; "
        "if fire: send spike(index + k, sign = coding != binary and s < 0); "
        "then send one marker, all along the route",
    ),
    InstructionSpec(
        "accum",
        0x31,
        "events",
        (_TAG, _u("slot", 2), Field("coding", "choice", 2, CODINGS), _SOURCES),
        "t = iteration, T = count of the innermost loop; for each of `sources` senders: wait for its message "
        "under the tag; until its marker: receive spike (k, sign); fetch row k of synapse[slot]; "
        "w = ternary: 1, bitwise: 2^t, binary: t < T/2 ? 1 : -1; "
        "i[acc + (k/group) outputs + n] += (sign ? -w : w) * row[n] for n < outputs",
    ),
    InstructionSpec(
        "sendw",
        0x32,
        "events",
        (_SRC, _LEN, _ROUTE, _u("index", 16)),
        "for k < len: send word(index + k, i[src+k]); then send one marker, all along the route",
    ),
    InstructionSpec(
        "recvw",
        0x33,
        "events",
        (_DST, _LEN, _TAG, _SOURCES),
        "for each of `sources` senders: wait for its message under "
        "the tag; until its marker: receive word (k, v); "
        "i[dst+k] = v; k >= len, a word twice or a word missing raises MESSAGE",
    ),
    InstructionSpec(
        "readout",
        0x34,
        "events",
        (_n("y"), _n("acc"), _n("theta"), _n("scale"), _LEN),
        "for n < len: f[y+n] += (f[theta] * f[scale+n]) * float32(i[acc+n])",
    ),
)

_KV = (
    InstructionSpec(
        "kvrow",
        0x40,
        "KV cache",
        (_s("cache"), _n("counts"), _LEN, _u("stride", 24)),
        "for k < len: int8 at s[cache + pos stride + k] = i[counts+k] (a new row: the values of one token)",
    ),
    InstructionSpec(
        "kvcol",
        0x41,
        "KV cache",
        (_s("cache"), _n("counts"), _LEN, _u("stride", 24)),
        "for k < len: int8 at s[cache + k stride + pos] = i[counts+k] (a new column: the keys of one token)",
    ),
    InstructionSpec(
        "kvword",
        0x42,
        "KV cache",
        (_s("cache"), _SRC),
        "word at s[cache + 4 pos] = i[src] (the threshold of one token's keys or values)",
    ),
)

_VECTOR = (
    _binary("vadd", 0x50, "f[a+k] + f[b+k]"),
    _binary("vsub", 0x51, "f[a+k] - f[b+k]"),
    _binary("vmul", 0x52, "f[a+k] * f[b+k]"),
    _binary("vdiv", 0x53, "f[a+k] / f[b+k]"),
    _binary("vadds", 0x54, "f[a+k] + f[b]"),
    _binary("vsubs", 0x55, "f[a+k] - f[b]"),
    _binary("vmuls", 0x56, "f[a+k] * f[b]"),
    _binary("vdivs", 0x57, "f[a+k] / f[b]"),
    InstructionSpec(
        "vaddi",
        0x58,
        "vector unit",
        (_DST, _A, _B, _LEN),
        "for k < len: i[dst+k] = i[a+k] + i[b+k] (modulo 2^32)",
    ),
    _unary("vexp", 0x60, "exp(f[src+k])"),
    _unary("vsilu", 0x61, "f[src+k] / (1 + exp(-f[src+k]))"),
    _unary("vtanh", 0x62, "1 - 2 / (exp(2 f[src+k]) + 1)"),
    _unary("vsqrt", 0x63, "sqrt(f[src+k])"),
    _unary("vcvt", 0x64, "float32(i[src+k])"),
    InstructionSpec(
        "vsum", 0x68, "vector unit", (_DST, _SRC, _LEN), "f[dst] = lane sum of f[src+k], k < len"
    ),
    InstructionSpec("vmax", 0x69, "vector unit", (_DST, _SRC, _LEN), "f[dst] = max of f[src+k], k < len"),
    InstructionSpec(
        "rms",
        0x6A,
        "vector unit",
        (_DST, _SRC, _n("gain"), _LEN, Field("epsilon", "float")),
        "m = lane sum of f[src+k]^2 / len; "
        "for k < len: f[dst+k] = f[src+k] * (1 / sqrt(m + epsilon)) * f[gain+k]",
    ),
    InstructionSpec(
        "rot",
        0x6B,
        "vector unit",
        (
            _n("x"),
            _n("cos"),
            _n("sin"),
            _u("heads", 8),
            _u("dim", 12),
            _u("half", 11),
            Field("pairs", "choice", 1, ("split", "inter")),
        ),
        "for each of `heads` vectors of `dim` words from x, p < "
        "half: c, s = f[cos+p], f[sin+p]; "
        "(u, v) at (p, p + half) if split, else (2p, 2p + 1): (u c - v s, v c + u s)",
    ),
)

INSTRUCTIONS: Final = (*_CONTROL, *_LOAD, *_ENCODE, *_EVENTS, *_KV, *_VECTOR)
GROUPS: Final = tuple(dict.fromkeys(spec.group for spec in INSTRUCTIONS))
BY_NAME: Final = {spec.name: spec for spec in INSTRUCTIONS}
BY_OPCODE: Final = {spec.opcode: spec for spec in INSTRUCTIONS}
