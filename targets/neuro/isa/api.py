"""Assembler and disassembler on files: what ``sdc asm`` and ``sdc disasm`` call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sdc.errors import TargetError
from sdc.targets.neuro.isa.assembler import assemble
from sdc.targets.neuro.isa.container import read, write
from sdc.targets.neuro.isa.disassembler import disassemble
from sdc.targets.neuro.isa.program import Program

__all__ = ["assemble_file", "disassemble_file", "load_program", "save_program"]


def assemble_file(source: Path, out: Path) -> Program:
    """Writes the binary of an assembly file.

    Raises:
        AssemblyError: A line cannot be understood.
        TargetError: The file cannot be read.
    """
    program = assemble(_bytes(source).decode(errors="replace"))
    save_program(program, out)
    return program


def disassemble_file(
    source: Path,
    cores: set[int] | None = None,
    data: bool = False,
    label: Callable[[int], str] | None = None,
) -> str:
    """The text of a binary.

    Args:
        cores: Only these core numbers; all where None.
        data: With memory contents, in full.
        label: How people call a core number.

    Raises:
        BinaryError: The file is damaged, or of another version.
        TargetError: The file cannot be read, or has no program for one of the cores.
    """
    program = load_program(source)
    unknown = (cores or set()) - {core.core for core in program.cores}
    if unknown:
        raise TargetError(
            f"{source} has no program for core {min(unknown)}; it has {len(program.cores)} cores"
        )
    return disassemble(program, cores, data, label)


def load_program(path: Path) -> Program:
    """The program of a binary file; raises as :func:`disassemble_file`."""
    return read(_bytes(path))


def save_program(program: Program, path: Path) -> None:
    """Writes a program's binary."""
    path.write_bytes(write(program))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror}") from error
