"""Kernels of instruction sets that this machine lacks: linked by Zig's C compiler, run by QEMU's user mode.

Both are looked for: ``qemu-aarch64`` (Debian's qemu-user or qemu-user-static) on the PATH, and the package
``ziglang`` from PyPI.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray

__all__ = ["EmulatedKernels", "why_not"]

HARNESS = Path(__file__).parent / "emulate.c"
_NAMES = ("qemu-aarch64", "qemu-aarch64-static")
_CODES = {"i": 0, "u": 1, "f": 2}  # kDLInt, kDLUInt, kDLFloat of DLPack
_BFLOAT = 4  # kDLBfloat


def _emulator() -> str | None:
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


def why_not() -> str:
    """What is missing; "" where kernels can be emulated."""
    if _emulator() is None:
        return "no qemu-aarch64 on the PATH"
    return "" if importlib.util.find_spec("ziglang") else "the package ziglang is not installed"


class EmulatedKernels:
    """Compiled kernels by name, callable on arrays.

    Args:
        module: Compiled for a 64-bit ARM processor.
        names: Of the kernels.
    """

    def __init__(self, module: tvm.runtime.Module, names: Iterable[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sdc-emulated-")
        folder = Path(self._folder.name)
        (folder / "kernels.h").write_text("".join(f"KERNEL({name})\n" for name in names))
        module.write_to_file(str(folder / "kernels.o"), "o")
        self._program = folder / "emulate"
        sources = [f"-I{folder}", f"-I{tvm_ffi.libinfo.find_include_path()}", HARNESS, folder / "kernels.o"]
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", "-O1"]
        subprocess.run([*zig, "-o", self._program, *sources], check=True)

    def run(self, name: str, arrays: Sequence[NDArray]) -> list[NDArray]:
        """The arrays as a kernel leaves them."""
        path = Path(self._folder.name) / "arguments"
        whole = [np.array([len(arrays)], np.int64).tobytes()]
        for array in arrays:
            code = _BFLOAT if array.dtype.name == "bfloat16" else _CODES[array.dtype.kind]
            head = [code, 8 * array.itemsize, array.ndim, *array.shape, array.nbytes]
            whole += [np.array(head, np.int64).tobytes(), array.tobytes()]
        path.write_bytes(b"".join(whole))
        subprocess.run([_emulator(), "-cpu", "max", self._program, name, path], check=True)
        data, at, results = path.read_bytes(), 8, []
        for array in arrays:
            at += 8 * (4 + array.ndim)
            results.append(np.frombuffer(data[at : at + array.nbytes], array.dtype).reshape(array.shape))
            at += array.nbytes
        return results
