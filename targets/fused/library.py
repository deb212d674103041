"""Compiled programs on disk: two object files an instruction set, loaded without a linker or compiler.

TVM's ``export_library`` collects a program's object files (machine code, and the virtual machine's byte code)
and hands them to a linker. Ours keeps them as they are; LLVM's ORC loader (apache-tvm-ffi-orcjit) maps them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm_ffi_orcjit
from tvm import relax

from sdc.errors import TargetError

__all__ = ["load_objects", "save_objects"]

# Our objects need no C++ runtime. Without this name the loader would ask the machine's C++ compiler for one.
_NO_COMPILER = "no-compiler"


def save_objects(executable: relax.VMExecutable, folder: Path, name: str) -> list[Path]:
    """Writes ``folder/name.N.o``; returns the paths."""
    paths: list[Path] = []

    def keep(_out: str, objects: Sequence[str], **_options: Any) -> None:
        for number, source in enumerate(objects):
            path = folder / f"{name}.{number}.o"
            shutil.copyfile(source, path)
            paths.append(path)

    with tempfile.TemporaryDirectory() as work:
        executable.export_library(str(Path(work) / "program.so"), fcompile=keep)
    return paths


def load_objects(paths: Sequence[Path]) -> Any:
    """The program's module, ready for ``relax.VirtualMachine``.

    Raises:
        TargetError: The files are no object files for this machine.
    """
    try:
        return tvm_ffi_orcjit.default_session().load_module(list(paths), cxx=_NO_COMPILER)
    except RuntimeError as error:
        raise TargetError(f"{paths[0].parent}: cannot load the program's object files: {error}") from error
