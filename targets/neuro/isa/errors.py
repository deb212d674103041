"""What can be wrong with a core program, as text, as bits or at run time."""

from __future__ import annotations

from sdc.errors import TargetError

__all__ = ["AssemblyError", "BinaryError", "EncodingError", "ExecutionError"]


class EncodingError(TargetError):
    """An operand does not fit its field, or a word is no instruction."""


class AssemblyError(TargetError):
    """A line of assembly text cannot be understood.

    Args:
        line: Number of the line, from 1.
        message: What was wrong.
    """

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(f"line {line}: {message}")


class BinaryError(TargetError):
    """A binary container is damaged.

    Args:
        offset: Byte offset in the file.
        message: What was wrong.
    """

    def __init__(self, offset: int, message: str) -> None:
        self.offset = offset
        super().__init__(f"offset {offset:#x}: {message}")


class ExecutionError(TargetError):
    """A core met an exception of the instruction set, or all cores wait for each other.

    Args:
        core: The core's number, or None where the whole program is concerned.
        pc: Index of the instruction, or None.
        message: What was wrong.
    """

    def __init__(self, core: int | None, pc: int | None, message: str) -> None:
        self.core, self.pc = core, pc
        where = "" if core is None else f"core {core}" + ("" if pc is None else f", instruction {pc}") + ": "
        super().__init__(where + message)
