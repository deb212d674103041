"""The verbs about instruction sets: ``sdc asm`` and ``sdc disasm``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sdc.artefact import open_artefact
from sdc.cli.tables import print_facts
from sdc.errors import TargetError
from sdc.targets.neuro.dump import core_number
from sdc.targets.neuro.isa.api import assemble_file, disassemble_file
from sdc.targets.neuro.machine import Grid, load_machine

__all__ = ["assemble", "disassemble"]


def assemble(source: Path, out: Path) -> None:
    """``sdc asm``."""
    program = assemble_file(source, out)
    instructions = sum(len(core.code) for core in program.cores)
    print_facts("assembled", {"program": str(out), "cores": len(program.cores), "instructions": instructions})


def disassemble(path: Path, cores: Sequence[str], out: Path | None, *, data: bool) -> None:
    """``sdc disasm``: of a compiled program for the target neuro, or of a binary file."""
    binary, grid = _binary(path)
    label: Callable[[int], str] | None = grid.label if grid else None
    chosen = {core_number(core, grid) if grid else _number(core) for core in cores} or None
    text = disassemble_file(binary, chosen, data, label)
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TargetError(f"{out} cannot be written: {error.strerror}") from error


def _binary(path: Path) -> tuple[Path, Grid | None]:
    """The binary file, and the geometry of its machine where that is known."""
    if not path.is_dir():
        return path, None
    artefact = open_artefact(path)
    if artefact.manifest["target"] != "neuro":
        raise TargetError(
            f"{path} was compiled for {artefact.manifest['target']}; only programs for neuro can be read"
        )
    program = artefact.manifest["program"]
    return path / program["program"], Grid.of(load_machine(path / program["machine"]))


def _number(text: str) -> int:
    if not text.isdigit():
        raise TargetError(f"{text!r} is no number; a binary alone does not say where its cores are")
    return int(text)
