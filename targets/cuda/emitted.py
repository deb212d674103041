"""``--emit``: a program's kernels in forms for people and tools."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sdc.errors import TargetError
from sdc.targets.cuda.compiled import Compiler

__all__ = ["find_disassembler", "write_emitted"]

# Both belong to the CUDA toolkit, but not to every package of it ("CUDA Binary Utilities").
_DISASSEMBLERS = (("cuobjdump", "-sass"), ("nvdisasm",))


def write_emitted(compiler: Compiler, source: str, archs: Sequence[str], forms: str, out: Path) -> list[Path]:
    """Writes ``emitted/kernels.cu``, ``.ARCH.ptx``, ``.ARCH.cubin``, ``.ARCH.sass``; returns the paths.

    Args:
        forms: Some of cuda, ptx, cubin and sass, commas between them.

    Raises:
        TargetError: SASS is asked for, and no disassembler is on the PATH.
    """
    wanted = [f for f in forms.split(",") if f]
    folder, paths = out / "emitted", list[Path]()

    def write(name: str, data: bytes) -> None:
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        paths.append(folder / name)

    if "cuda" in wanted:
        write("kernels.cu", source.encode())
    for arch in archs:
        if "ptx" in wanted:
            write(f"kernels.{arch}.ptx", compiler.ptx(source, arch).encode())
        if "cubin" in wanted:
            write(f"kernels.{arch}.cubin", compiler.cubin(source, arch))
        if "sass" in wanted:
            write(f"kernels.{arch}.sass", _disassembled(compiler.cubin(source, arch), folder))
    return paths


def find_disassembler() -> tuple[str, ...]:
    """The command that disassembles a cubin, without the file's name.

    Raises:
        TargetError: None is on the PATH.
    """
    for tool in _DISASSEMBLERS:
        if shutil.which(tool[0]):
            return tool
    raise TargetError(
        "--emit sass needs cuobjdump or nvdisasm on the PATH (packages cuda-cuobjdump, cuda-nvdisasm); "
        "--emit ptx needs neither"
    )


def _disassembled(cubin: bytes, folder: Path) -> bytes:
    tool = find_disassembler()
    folder.mkdir(exist_ok=True)
    path = folder / "disassembled.cubin"
    path.write_bytes(cubin)
    try:
        done = subprocess.run([*tool, str(path)], capture_output=True, check=False)
    finally:
        path.unlink()
    if done.returncode:
        raise TargetError(f"{tool[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
