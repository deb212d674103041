"""A whole program: every core's code, routes and initial memory, and who meets at which barrier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from sdc.targets.neuro.isa.instruction import Instruction

__all__ = ["HOST", "CoreProgram", "Program", "Route", "Segment"]

HOST: Final = 0xFFFF_FFFF  # the destination that stands for the machine's outside


@dataclass(frozen=True)
class Route:
    """What a core's route number stands for: the packets' tag, and the cores they are multicast to.

    Attributes:
        targets: Ascending core numbers; :data:`HOST` leaves the machine. The tree is the router's.
    """

    tag: int
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Segment:
    """Initial contents of a memory: ``n`` (addresses in words) or ``s`` (addresses in bytes)."""

    memory: Literal["n", "s"]
    address: int
    data: bytes


@dataclass(frozen=True)
class CoreProgram:
    """One core.

    Attributes:
        core: Number on the board.
        name: What it does, for people.
        neuron_words, synapse_bytes: Memory that the program uses.
        routes: By route number.
        labels: Instruction index of each label.
        notes: Remarks before an instruction (layer names, phases), by its index; lines without outer space.
    """

    core: int
    name: str = ""
    neuron_words: int = 0
    synapse_bytes: int = 0
    code: tuple[Instruction, ...] = ()
    routes: tuple[Route, ...] = ()
    segments: tuple[Segment, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """All cores, ascending by number.

    Attributes:
        machine: Name of the machine description it was mapped to.
        barriers: Cores of each barrier group.
    """

    cores: tuple[CoreProgram, ...] = ()
    machine: str = ""
    barriers: tuple[tuple[int, ...], ...] = ()

    def core(self, number: int) -> CoreProgram:
        """The program of one core.

        Raises:
            KeyError: No program for that core.
        """
        for program in self.cores:
            if program.core == number:
                return program
        raise KeyError(number)
