"""The verifier of core programs: what the compiler emits (or a user writes) against rules and machine.

It shares no code with code generation or simulation. Programs are walked through without data
(:mod:`sdc.targets.neuro.verify.walk`), then messages are matched between cores, and one token is played to
see that no core is left waiting. A program without findings cannot raise ADDRESS, LOOP, BASE, ROUTE, MESSAGE
or DEADLOCK of docs/isa.md, for texts up to the given length; RANGE and NUMERIC depend on data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from sdc.errors import TargetError
from sdc.targets.neuro.codegen.signature import Port
from sdc.targets.neuro.isa.fields import Length
from sdc.targets.neuro.isa.program import HOST, CoreProgram, Program
from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.verify.messages import Found, check_barriers, check_deadlock, check_messages
from sdc.targets.neuro.verify.violation import Violation
from sdc.targets.neuro.verify.walk import Event, Fault, Limits, Walk

__all__ = ["ProgramError", "check_program", "verify_program"]

_SHOWN = 20


class ProgramError(TargetError):
    """A program breaks the rules of the instruction set or of its machine.

    Args:
        violations: All that were found.
    """

    def __init__(self, violations: list[Violation]) -> None:
        self.violations = tuple(violations)
        lines = [str(v) for v in violations[:_SHOWN]]
        if len(violations) > _SHOWN:
            lines.append(f"... and {len(violations) - _SHOWN} more")
        super().__init__("the program is wrong:\n" + "\n".join(lines))


def verify_program(
    program: Program,
    machine: Machine,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    *,
    tokens: int = 1,
    external: int = 0,
) -> None:
    """Raises if anything is wrong; arguments as for :func:`check_program`.

    Raises:
        ProgramError: With every violation found.
    """
    found = check_program(program, machine, inputs, outputs, tokens=tokens, external=external)
    if found:
        raise ProgramError(found)


def check_program(
    program: Program,
    machine: Machine,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    *,
    tokens: int = 1,
    external: int = 0,
) -> list[Violation]:
    """All violations, in a fixed order; empty if the program is right.

    Args:
        inputs, outputs: What the host sends and takes for each token.
        tokens: Tokens of the longest text.
        external: Bytes of external memory that hold something.
    """
    programs = {core.core: core for core in program.cores}
    found = list(_check_cores(program, machine))
    limits = Limits(external, tokens, machine.core.weight_bits)
    events: dict[int, Sequence[Event]] = {HOST: _host(inputs, outputs)}
    for core in program.cores:
        walk = Walk(core, limits)
        walk.run()
        found += [(core.core, fault) for fault in walk.faults]
        events[core.core] = walk.events
    if not found:  # otherwise what a core sends and takes is not known
        found += check_messages(events, programs)
        found += check_barriers(events, program.barriers)
    if not found:
        found += check_deadlock(events)
    grid = Grid.of(machine)
    return [_violation(core, fault, programs.get(core), grid) for core, fault in found]


def _host(inputs: Sequence[Port], outputs: Sequence[Port]) -> list[Event]:
    """What stands outside: it sends all inputs, then takes the outputs."""
    sent = [
        Event(n, "sent", port.tag, "word", (port.core,), 0, 0, Length(port.size))
        for n, port in enumerate(inputs)
    ]
    taken = [
        Event(n, "taken", port.tag, "word", (), port.sources, 0, Length(port.size))
        for n, port in enumerate(outputs, len(sent))
    ]
    return [*sent, *taken]


def _check_cores(program: Program, machine: Machine) -> Iterator[Found]:
    """Cores exist, once each, and their memories hold what is declared and loaded."""
    count = Counter(core.core for core in program.cores)
    for core in program.cores:
        number = core.core
        if number >= machine.board.cores:
            text = f"core {number} does not exist; {machine.name} has {machine.board.cores:,}"
            yield number, Fault("no-such-core", 0, text)
        if count[number] > 1:
            yield number, Fault("core-twice", 0, f"{count[number]} programs for one core")
        for kind, used, room in (
            ("synapse", core.synapse_bytes, machine.core.synapse_memory_bytes),
            ("neuron", 4 * core.neuron_words, machine.core.neuron_memory_bytes),
        ):
            if used > room:
                text = f"needs {used:,} bytes of {kind} memory, has {room:,}"
                yield number, Fault(f"{kind}-memory-overfull", 0, text)
        yield from ((number, fault) for fault in _check_segments(core))


def _check_segments(core: CoreProgram) -> Iterator[Fault]:
    end = {"n": 0, "s": 0}
    size = {"n": core.neuron_words, "s": core.synapse_bytes}
    for segment in sorted(core.segments, key=lambda s: (s.memory, s.address)):
        unit = 4 if segment.memory == "n" else 1
        last = segment.address + -(-len(segment.data) // unit)
        where = f"data {segment.memory}[{segment.address:#x}:{last:#x}]"
        if last > size[segment.memory]:
            yield Fault("data-outside", 0, f"{where} exceed the memory of {size[segment.memory]:#x}")
        if segment.address < end[segment.memory]:
            yield Fault("data-overlap", 0, f"{where} overwrite data before them")
        end[segment.memory] = max(end[segment.memory], last)


def _violation(core: int, fault: Fault, program: CoreProgram | None, grid: Grid) -> Violation:
    """A fault with its place, as people read it."""
    if program is None:
        return Violation(fault.kind, -1, "host", f"port {fault.pc}", fault.message)
    code = program.code
    instruction = f" ({code[fault.pc]})".replace("  ", " ") if fault.pc < len(code) else ""
    notes = [pc for pc in program.notes if pc <= fault.pc]
    layer = program.notes[max(notes)].splitlines()[-1] if notes else program.name
    item = f"instruction {fault.pc}{instruction}" + (f", {layer}" if layer else "")
    return Violation(fault.kind, core, grid.label(core), item, fault.message)
