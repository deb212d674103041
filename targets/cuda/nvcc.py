"""NVIDIA's compiler: found, its version checked, and run; and what ptxas says about each kernel."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdc.errors import TargetError

__all__ = ["ARCHITECTURES", "MINIMUM", "Compiled", "Kernel", "Nvcc", "find_nvcc", "parse_ptxas"]

# The first release that knows sm_89 and sm_90 (CUDA 11.8 release notes, "General CUDA") is 11.8; 12.0 is the
# first whose libraries TVM's wheel may run beside.
MINIMUM = (12, 0)
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


@dataclass(frozen=True)
class Kernel:
    """What ptxas reports of one kernel on one architecture.

    Attributes:
        shared: Bytes of static shared memory a block.
        spilled: Bytes that a thread stores and loads because registers ran out.
    """

    name: str
    arch: str
    registers: int
    shared: int
    spilled: int

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Compiled:
    """A fat binary (cubins, and PTX of the lowest architecture for newer devices), and its kernels."""

    binary: bytes
    kernels: tuple[Kernel, ...]


@dataclass(frozen=True)
class Nvcc:
    """A compiler that is new enough."""

    path: Path
    version: tuple[int, int]

    def fat_binary(self, source: str, archs: Sequence[str]) -> Compiled:
        """Compiles CUDA C++ for the architectures.

        Raises:
            TargetError: The compiler refuses.
        """
        lowest = min(archs, key=_number)
        codes = [f"-gencode=arch=compute_{_number(a)},code=sm_{_number(a)}" for a in archs]
        codes.append(f"-gencode=arch=compute_{_number(lowest)},code=compute_{_number(lowest)}")
        binary, said = self._run(source, "fatbin", [*codes, "-Xptxas=-v", "--threads=0"])
        return Compiled(binary, tuple(sorted(parse_ptxas(said), key=lambda k: (k.name, k.arch))))

    def ptx(self, source: str, arch: str) -> str:
        """PTX for an architecture. Raises as :meth:`fat_binary`."""
        return self._run(source, "ptx", [f"-arch=compute_{_number(arch)}"])[0].decode()

    def cubin(self, source: str, arch: str) -> bytes:
        """Machine code for an architecture. Raises as :meth:`fat_binary`."""
        return self._run(source, "cubin", [f"-arch={arch}"])[0]

    def _run(self, source: str, form: str, options: list[str]) -> tuple[bytes, str]:
        # Fused multiply-adds would round the readout otherwise than the reference, and fast division the
        # counts.
        numerics = ["--fmad=false", "-prec-div=true", "-prec-sqrt=true", "-ftz=false"]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "kernels.cu").write_text(source, encoding="utf-8")
            # Relative names, because the binary holds them.
            command = [
                str(self.path),
                f"-{form}",
                "-O3",
                "-w",
                *numerics,
                *options,
                "-o",
                "out",
                "kernels.cu",
            ]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            said = done.stdout + done.stderr
            if done.returncode:
                raise TargetError(f"{self.path} could not compile the kernels: {said.strip()[-2000:]}")
            return (Path(folder) / "out").read_bytes(), said


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))


def find_nvcc() -> Nvcc:
    """The compiler on the search path.

    Raises:
        TargetError: There is none, or it is too old.
    """
    found = shutil.which("nvcc")
    if found is None:
        raise TargetError(
            "--target cuda needs NVIDIA's compiler nvcc, and none is on the PATH; install the CUDA toolkit "
            f"{MINIMUM[0]}.{MINIMUM[1]} or newer (developer.nvidia.com/cuda-downloads)"
        )
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"release (\d+)\.(\d+)", said)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < MINIMUM:
        shown = ".".join(map(str, version)) if match else "of unknown version"
        raise TargetError(f"{found} is {shown}; --target cuda needs CUDA {MINIMUM[0]}.{MINIMUM[1]} or newer")
    return Nvcc(Path(found), version)


def parse_ptxas(text: str) -> Iterator[Kernel]:
    """The kernels of ``ptxas -v``'s remarks."""
    entry = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
    spills = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
    used = re.compile(r"Used (\d+) registers(.*)")
    name = arch = ""
    spilled = 0
    for line in text.splitlines():
        if found := entry.search(line):
            (name, arch), spilled = found.groups(), 0
        elif found := spills.search(line):
            spilled = int(found[1]) + int(found[2])
        elif (found := used.search(line)) and name:
            shared = re.search(r"(\d+) bytes smem", found[2])
            yield Kernel(name, arch, int(found[1]), int(shared[1]) if shared else 0, spilled)
            name = ""
