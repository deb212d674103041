"""Compiled programs on disk: two object files an instruction set, loaded without a linker or compiler.

TVM's ``export_library`` collects a program's object files (machine code, and the virtual machine's byte code)
and hands them to a linker. Ours keeps them as they are; LLVM's ORC loader (apache-tvm-ffi-orcjit) maps them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from sdc.cache import cache_dir

__all__ = ["cached_objects", "save_objects"]

# Changes when equal modules begin to give other machine code: with the order of the build's own passes.
_BUILD = 5

# Programs that the cache keeps: the last used ones, about a megabyte each.
_KEPT = 64


def cached_objects(
    module: tvm.IRModule, target: str, folder: Path, name: str, make: Callable[[], relax.VMExecutable]
) -> list[Path]:
    """Writes ``folder/name.N.o``, out of the cache where the same module was compiled before.

    Kernels take calibrated numbers at run time and weights by their place, so a model that is compiled again
    with another text or another quantiser finds its machine code here.

    Args:
        module: Lowered; its structure is the key.
        target: What else the machine code depends on, as text.
        folder: Receives the files.
        name: Of the files.
        make: Compiles the module.
    """
    # Not its text: TVM's printer crashes on some modules.
    structure = tvm_ffi.structural_hash(module, map_free_vars=True)
    key = hashlib.sha256(f"{tvm.__version__} {_BUILD} {target} {name} {structure}".encode())
    entry = cache_dir() / "kernels" / key.hexdigest()[:32]
    found = _copied(entry, folder)
    if found:
        return found
    paths = sorted(save_objects(make(), folder, name))
    _keep(entry, paths)
    return paths


def _copied(entry: Path, folder: Path) -> list[Path]:
    """Copies of an entry's files; none where there is no such entry, or another compile just removed it."""
    try:
        os.utime(entry)  # so that it is no more among those that were not used for longest
        return [Path(shutil.copyfile(source, folder / source.name)) for source in sorted(entry.iterdir())]
    except FileNotFoundError:
        return []


def _keep(entry: Path, paths: Sequence[Path]) -> None:
    """Makes an entry, which appears whole, and removes those that were not used for longest."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent) as work:
        made = Path(work) / "entry"
        made.mkdir()
        for path in paths:
            shutil.copyfile(path, made / path.name)
        try:
            made.replace(entry)
        except OSError:
            if not entry.is_dir():  # else another compile was faster, and its files are the same
                raise
    entries = [path for path in entry.parent.iterdir() if len(path.name) == len(entry.name)]
    for old in sorted(entries, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


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
