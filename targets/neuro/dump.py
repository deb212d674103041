"""Every core's program as a text file of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdc.errors import TargetError
from sdc.targets.neuro.isa.disassembler import disassemble
from sdc.targets.neuro.isa.program import Program
from sdc.targets.neuro.machine import Grid, Machine

__all__ = ["core_number", "write_dump"]


def write_dump(program: Program, machine: Machine, folder: Path) -> None:
    """Writes ``core-X,Y.s`` for every core, and ``index.txt`` with one line for each.

    Raises:
        TargetError: The folder cannot be written to.
    """
    grid = Grid.of(machine)
    lines = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for core in program.cores:
            file = folder / f"{grid.label(core.core).replace(' ', '-')}.s"
            file.write_text(disassemble(program, {core.core}, False, grid.label), encoding="utf-8")
            chip = int(grid.chip(np.array(core.core)))
            sizes = f"{len(core.code)} instructions, {4 * core.neuron_words} + {core.synapse_bytes} bytes"
            lines.append(f"{file.name:20} chip {chip:<4} {core.name} ({sizes})")
        (folder / "index.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise TargetError(f"{folder} cannot be written to: {error.strerror}") from error


def core_number(text: str, grid: Grid) -> int:
    """The number of a core from ``3,2``, ``3,2.1`` or the number itself.

    Raises:
        TargetError: It is none of these, or lies outside the board.
    """
    where, _, slot = text.partition(".")
    x, _, y = where.partition(",")
    try:
        number = int(x) if not y else grid.core(int(x), int(y), int(slot or 0))
        inside = not y or (int(x) < grid.width and int(y) < grid.height and int(slot or 0) < grid.cluster)
    except ValueError:
        raise TargetError(f"{text!r} names no core; give X,Y, X,Y.SLOT or a number") from None
    if not inside or not 0 <= number < grid.cores:
        raise TargetError(f"core {text} lies outside the board of {grid.width} x {grid.height} routers")
    return number
