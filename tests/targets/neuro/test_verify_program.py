"""The verifier of programs: what the compiler emits passes, each kind of damage is named with its place."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import pytest
from helpers.neuro import small_machine
from helpers.spiking_llama import spiking_llama

from sdc.targets.neuro.codegen.module import Compiled, compile_module
from sdc.targets.neuro.codegen.values import PlainPlacement
from sdc.targets.neuro.isa.container import read, write
from sdc.targets.neuro.isa.errors import BinaryError
from sdc.targets.neuro.isa.fields import Length, Ref
from sdc.targets.neuro.isa.instruction import Instruction, encode
from sdc.targets.neuro.isa.program import CoreProgram, Program, Route, Segment
from sdc.targets.neuro.isa.table import BY_NAME
from sdc.targets.neuro.verify.program import ProgramError, check_program, verify_program
from sdc.targets.neuro.verify.violation import Violation

MACHINE = small_machine()


@lru_cache
def good(coding: str = "bitwise", budget: int = 1000, external: bool = True) -> Compiled:
    return compile_module(
        spiking_llama(coding=coding, layers=1, vocab=600), PlainPlacement(budget, external), "generic"
    )


def check(compiled: Compiled, program: Program | None = None) -> list[Violation]:
    return check_program(
        program or compiled.program,
        MACHINE,
        compiled.inputs,
        compiled.outputs,
        tokens=compiled.max_seq,
        external=len(compiled.external),
    )


@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("budget", [100, 500, 10**6])
@pytest.mark.parametrize("coding", ["ternary", "bitwise", "binary"])
def test_what_the_compiler_emits_is_right(coding, budget, external) -> None:
    compiled = good(coding, budget, external)
    machine = small_machine(board={"routers_x": 32, "routers_y": 32})
    verify_program(
        compiled.program,
        machine,
        compiled.inputs,
        compiled.outputs,
        tokens=compiled.max_seq,
        external=len(compiled.external),
    )


Place = tuple[CoreProgram, int]


def find(program: Program, name: str, core_name: str = "", which: int = 0) -> Place:
    """The first core whose name contains a text and that has the instruction, and where."""
    for core in program.cores:
        places = [pc for pc, i in enumerate(core.code) if i.name == name]
        if core_name in core.name and len(places) > which:
            return core, places[which]
    raise AssertionError(f"no {name} in {core_name}")


def with_core(program: Program, core: CoreProgram) -> Program:
    return replace(program, cores=tuple(core if c.core == core.core else c for c in program.cores))


def with_code(program: Program, place: Place, *instructions: Instruction) -> Program:
    core, pc = place
    return with_core(program, replace(core, code=(*core.code[:pc], *instructions, *core.code[pc + 1 :])))


def operands(program: Program, place: Place, **changes: object) -> Program:
    core, pc = place
    old = core.code[pc]
    names = [field.name for field in BY_NAME[old.name].fields]
    values = dict(zip(names, old.operands, strict=True)) | changes
    return with_code(program, place, Instruction(old.name, tuple(values[n] for n in names)))


def instruction(
    name: str, core_name: str = "", which: int = 0, **changes: object
) -> Callable[[Program], Program]:
    return lambda p: operands(p, find(p, name, core_name, which), **changes)


def dropped(name: str, core_name: str = "", which: int = 0) -> Callable[[Program], Program]:
    return lambda p: with_code(p, find(p, name, core_name, which), Instruction("nop"))


def impatient(p: Program) -> Program:
    """A core wants the attention's outputs before it sends the queries."""
    core = core_of(p, "attn.o encoder")
    last = max(pc for pc, i in enumerate(core.code) if i.name == "recvw")
    return with_core(p, replace(core, code=(core.code[last], *core.code[:last], *core.code[last + 1 :])))


def core_of(p: Program, name: str) -> CoreProgram:
    return next(core for core in p.cores if name in core.name)


def changed_core(name: str, **changes: object) -> Callable[[Program], Program]:
    return lambda p: with_core(p, replace(core_of(p, name), **changes))


def renumbered(p: Program) -> Program:
    return replace(p, cores=(*p.cores[:-1], replace(p.cores[-1], core=9999)))


def twice(p: Program) -> Program:
    return replace(p, cores=(*p.cores, p.cores[-1]))


def rerouted(tag: int | None = None, target: int | None = None) -> Callable[[Program], Program]:
    def change(p: Program) -> Program:
        core = core_of(p, "mlp.gate_up rows")
        route = core.routes[0]
        new = Route(route.tag if tag is None else tag, route.targets if target is None else (target,))
        return with_core(p, replace(core, routes=(new, *core.routes[1:])))

    return change


def halved_train(p: Program) -> Program:
    core, pc = find(p, "loop", "mlp.gate_up rows")
    return operands(p, (core, pc), count=2)


def deep_loops(p: Program) -> Program:
    core, pc = find(p, "fill", "mlp.gate_up rows")
    loop, end = Instruction("loop", (1,)), Instruction("endl")
    return with_code(p, (core, pc), *[loop] * 9, *[end] * 9)


def overlapping_data(p: Program) -> Program:
    core = core_of(p, "mlp.gate_up rows")
    return with_core(p, replace(core, segments=(*core.segments, Segment("s", 0, b"\0"))))


def drifting(p: Program) -> Program:
    core, pc = find(p, "fill", "mlp.gate_up rows")
    return with_code(p, (core, pc), Instruction("adv", (4, 4)), core.code[pc])


def barriered(members: Callable[[Program], tuple[int, ...]], group: int = 0) -> Callable[[Program], Program]:
    def change(p: Program) -> Program:
        core, pc = find(p, "fill", "mlp.gate_up rows")
        new = with_code(p, (core, pc), Instruction("barrier", (group,)), core.code[pc])
        return replace(new, barriers=(members(p),))

    return change


DOWN, UP = "mlp.down rows", "mlp.gate_up rows"
CORRUPT: dict[str, tuple[Callable[[Program], Program], str]] = {
    "core outside the board": (renumbered, "no-such-core"),
    "two programs for a core": (twice, "core-twice"),
    "overfull synapse memory": (changed_core(DOWN, synapse_bytes=10**6), "synapse-memory-overfull"),
    "overfull neuron memory": (changed_core(DOWN, neuron_words=10**6), "neuron-memory-overfull"),
    "data beyond the memory": (changed_core(UP, synapse_bytes=10), "data-outside"),
    "data over data": (overlapping_data, "data-overlap"),
    "neuron address": (instruction("fill", DOWN, dst=Ref(0xFFFF)), "address-outside"),
    "synapse address": (instruction("kvcol", cache=Ref(0xFFFF)), "address-outside"),
    "base register makes an address negative": (instruction("base", DOWN, value=-30000), "address-outside"),
    "external memory": (instruction("fetch", **{"from": 10**9}), "external-outside"),
    "no end": (dropped("jump", DOWN), "runs-off-end"),
    "jump forward": (instruction("jump", DOWN, target=500), "jump-outside"),
    "loop of nothing": (instruction("loop", DOWN, count=0), "bad-loop"),
    "nine loops": (deep_loops, "bad-loop"),
    "loop not closed": (dropped("endl", DOWN), "loop-open"),
    "loop not opened": (dropped("loop", DOWN), "step-outside-loop"),
    "b0 written": (instruction("base", DOWN, reg=0), "writes-b0"),
    "base drifts from token to token": (drifting, "drifting-base"),
    "slot not set": (dropped("slot", DOWN), "slot-undefined"),
    "weights of unknown width": (instruction("slot", DOWN, bits="16"), "no-such-weight"),
    "rows beyond the memory": (instruction("slot", DOWN, stride=4000), "row-outside"),
    "accumulators beyond the memory": (instruction("slot", DOWN, acc=Ref(0xFF0)), "accumulator-outside"),
    "groups that do not divide": (instruction("count", group=7), "uneven-groups"),
    "cache too short": (instruction("kvcol", stride=5), "cache-too-short"),
    "route that is not there": (instruction("sendw", UP, route=77), "no-such-route"),
    "route to a core without program": (rerouted(target=250), "no-such-receiver"),
    "route under a wrong tag": (rerouted(tag=4000), "nobody-listens"),
    "nothing comes": (instruction("accum", DOWN, tag=4000), "no-sender"),
    "missing barrier": (instruction("accum", DOWN, sources=0), "missing-barrier"),
    "one marker too many": (instruction("accum", DOWN, sources=2), "wrong-sources"),
    "words taken for spikes": (
        lambda p: operands(p, find(p, "accum", DOWN), tag=find_tag(p, DOWN)),
        "wrong-kind|unequal-turns",
    ),
    "another coding": (instruction("accum", DOWN, coding="ternary"), "wrong-coding"),
    "half a train": (halved_train, "unequal-turns|wrong-step"),
    "a vector too short": (instruction("recvw", DOWN, len=Length(1)), "wrong-length"),
    "words twice": (instruction("sendw", UP, index=1), "wrong-length"),
    "a message not sent": (dropped("sendw", "kv head 0, keys"), "unequal-turns|no-sender"),
    "order that waits for itself": (impatient, "deadlock"),
    "stranger at a barrier": (barriered(lambda _p: ()), "not-in-barrier"),
    "nobody else comes to a barrier": (
        barriered(lambda p: (core_of(p, UP).core, core_of(p, DOWN).core)),
        "missing-barrier",
    ),
}


def find_tag(program: Program, name: str) -> int:
    core, pc = find(program, "recvw", name)
    return int(core.code[pc].operands[2])  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", CORRUPT)
def test_damage_is_found_and_its_place_named(damage: str) -> None:
    corrupt, kinds = CORRUPT[damage]
    compiled = good()
    assert check(compiled) == []
    with pytest.raises(ProgramError) as caught:
        verify_program(
            corrupt(compiled.program),
            MACHINE,
            compiled.inputs,
            compiled.outputs,
            tokens=compiled.max_seq,
            external=len(compiled.external),
        )
    mine = [v for v in caught.value.violations if v.kind in kinds.split("|")]
    assert mine, f"found only {[str(v) for v in caught.value.violations]}"
    assert mine[0].where.startswith("core ")
    assert mine[0].item.startswith("instruction ")
    assert f"{mine[0].where}: {mine[0].item}: " in str(caught.value)


def test_there_are_many_kinds() -> None:
    assert len({kind for _, kinds in CORRUPT.values() for kind in kinds.split("|")}) >= 20


def test_an_illegal_opcode_names_core_and_instruction() -> None:
    binary = write(good().program)
    first = good().program.cores[0]
    at = binary.index(b"".join(encode(i) for i in first.code))
    body = binary[:at] + b"\xee" + binary[at + 1 : -4]
    with pytest.raises(
        BinaryError, match=rf"offset {at:#x}: core {first.core}, instruction 0: illegal opcode 0xee"
    ):
        read(body + struct.pack("<I", zlib.crc32(body)))


def test_a_host_that_takes_something_else_is_found() -> None:
    compiled = good()
    outputs = [replace(compiled.outputs[0], tag=3999)]
    found = check_program(
        compiled.program, MACHINE, compiled.inputs, outputs, tokens=12, external=len(compiled.external)
    )
    assert {v.kind for v in found} == {"no-sender", "nobody-listens"}
    assert any(v.where == "host" for v in found)
