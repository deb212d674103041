"""Programs as assembly text: stable, complete, and meant to be read."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator

from sdc.targets.neuro.isa.instruction import Instruction
from sdc.targets.neuro.isa.program import HOST, CoreProgram, Program, Segment
from sdc.targets.neuro.isa.table import VERSION

__all__ = ["disassemble"]

HEX_BYTES = 32  # of one line of data
COLUMN = 48  # of comments on instructions
LABELS = 6  # of receivers, in the comment on a route


def disassemble(
    program: Program,
    cores: set[int] | None = None,
    data: bool = True,
    label: Callable[[int], str] | None = None,
) -> str:
    """The program as text.

    Args:
        cores: Only these cores; all where None.
        data: With memory contents, so that assembling gives the same program; else only their size and hash.
        label: How people call a core number; with it, comments say which cores messages go to and come from.
    """
    lines = [f".isa {VERSION[0]}.{VERSION[1]}", f".machine {json.dumps(program.machine)}"]
    lines += [f".barrier {', '.join(map(str, group))}" for group in program.barriers]
    for core in program.cores:
        if cores is None or core.core in cores:
            lines += ["", *_core(core, data, label)]
    return "\n".join(lines) + "\n"


def _core(core: CoreProgram, data: bool, label: Callable[[int], str] | None) -> Iterator[str]:
    if label is not None:
        yield f"; {label(core.core)}"
    yield f".core {core.core} {json.dumps(core.name)}"
    yield f".memory n {core.neuron_words}"
    yield f".memory s {core.synapse_bytes}"
    for number, route in enumerate(core.routes):
        targets = ", ".join("host" if target == HOST else str(target) for target in route.targets)
        line = f".route {number} tag {route.tag} to {targets}".rstrip()
        yield line if label is None else f"{line}{_remark(route.targets, label)}"
    for segment in core.segments:
        yield from _segment(segment, data)
    yield from _code(core, label)


def _remark(targets: tuple[int, ...], label: Callable[[int], str]) -> str:
    cores = [label(target) for target in targets if target != HOST]
    shown = [*cores[:LABELS], *(["..."] if len(cores) > LABELS else [])]
    return f" ; {', '.join(shown)}" if shown else ""


def _segment(segment: Segment, data: bool) -> Iterator[str]:
    if not data:
        digest = hashlib.sha256(segment.data).hexdigest()[:16]
        yield f"; data {segment.memory} {segment.address:#x}: {len(segment.data)} bytes, sha256 {digest}..."
        return
    yield f".data {segment.memory} {segment.address:#x}"
    for start in range(0, len(segment.data), HEX_BYTES):
        yield f"    {segment.data[start : start + HEX_BYTES].hex()}"


def _code(core: CoreProgram, label: Callable[[int], str] | None) -> Iterator[str]:
    named: defaultdict[int, list[str]] = defaultdict(list)
    for name, index in core.labels.items():
        named[index].append(name)
    first = {index: min(names) for index, names in named.items()}
    yield ".code"
    indent = 1
    for index in range(len(core.code) + 1):
        yield from (f"{name}:" for name in sorted(named.get(index, [])))
        yield from (f";; {line}" for line in core.notes.get(index, "").splitlines())
        if index == len(core.code):
            return
        instruction = core.code[index]
        indent -= instruction.name == "endl" and indent > 1
        text = "    " * indent + _instruction(instruction, first)
        remark = _message(instruction, core, label) if label is not None else ""
        yield f"{text:{COLUMN}}{remark}" if remark else text
        indent += instruction.name == "loop"


def _message(instruction: Instruction, core: CoreProgram, label: Callable[[int], str]) -> str:
    """Where a message goes to, or how many it takes, as a comment."""
    given = dict(zip((f.name for f in instruction.spec.fields), instruction.operands, strict=True))
    number = given.get("route", -1)
    if isinstance(number, int) and 0 <= number < len(core.routes):
        route = core.routes[number]
        host = " ; to the host" if HOST in route.targets else ""
        return (_remark(route.targets, label).replace(" ; ", " ; to ") or host) + f", tag {route.tag}"
    if "sources" in given:
        return f" ; tag {given['tag']} from {given['sources']} core{'s' * (given['sources'] != 1)}"
    return ""


def _instruction(instruction: Instruction, labels: dict[int, str]) -> str:
    if instruction.name == "jump" and instruction.operands[0] in labels:
        return f"{instruction.name:<8}{labels[int(str(instruction.operands[0]))]}"
    return str(instruction)
