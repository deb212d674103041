"""What NVIDIA's compilers are told and what they make: a fat binary, and ptxas' word on each kernel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sdc.errors import TargetError
from sdc.targets.cuda.occupancy import resident_blocks, resident_share

__all__ = [
    "MINIMUM",
    "NUMERICS",
    "Compiled",
    "Compiler",
    "Kernel",
    "check_version",
    "number",
    "parse_ptxas",
    "version_words",
]

# The first release that knows sm_89 and sm_90 (CUDA 11.8 release notes, "General CUDA") is 11.8; 12.0 is the
# first whose libraries TVM's wheel may run beside.
MINIMUM = (12, 0)

# Fused multiply-adds would round the readout otherwise than the reference, and fast division the counts.
NUMERICS = ("--fmad=false", "-prec-div=true", "-prec-sqrt=true", "-ftz=false")


@dataclass(frozen=True)
class Kernel:
    """What ptxas reports of one kernel on one architecture, and what follows from it.

    Attributes:
        shared: Bytes of static shared memory a block.
        spilled: Bytes that a thread stores and loads because registers ran out.
        threads: Of a block; 0 where the source sets no bound (TVM's always does).
        blocks: That a multiprocessor holds at once; 0 where that is not known.
        occupancy: Their warps, of the most that it holds.
    """

    name: str
    arch: str
    registers: int
    shared: int
    spilled: int
    threads: int = 0
    blocks: int = 0
    occupancy: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Compiled:
    """A fat binary (cubins, and PTX of the lowest architecture for newer devices), and its kernels."""

    binary: bytes
    kernels: tuple[Kernel, ...]

    @staticmethod
    def of(binary: bytes, said: str, source: str) -> Compiled:
        """A fat binary of a source with what ptxas said of its kernels, by name and architecture."""
        kernels = _resident(parse_ptxas(said), source)
        return Compiled(binary, tuple(sorted(kernels, key=lambda k: (k.name, k.arch))))


class Compiler(Protocol):
    """CUDA C++ to machine code."""

    @property
    def path(self) -> Path:
        """The program or library."""
        ...

    @property
    def name(self) -> str:
        """What it is, with its version."""
        ...

    def archs(self) -> tuple[str, ...]:
        """The architectures that it makes machine code for."""
        ...

    def fat_binary(self, source: str, archs: Sequence[str]) -> Compiled:
        """Machine code for the architectures, and PTX of the lowest for newer devices.

        Raises:
            TargetError: The compiler refuses.
        """
        ...

    def ptx(self, source: str, arch: str) -> str:
        """PTX for an architecture. Raises as :meth:`fat_binary`."""
        ...

    def cubin(self, source: str, arch: str) -> bytes:
        """Machine code for an architecture. Raises as :meth:`fat_binary`."""
        ...


def version_words(version: tuple[int, int]) -> str:
    """``12.0``."""
    return ".".join(map(str, version))


def check_version(path: Path, version: tuple[int, int] | None) -> tuple[int, int]:
    """The version of a compiler (None: not known), where it is new enough.

    Raises:
        TargetError: It is not.
    """
    if version is None or version < MINIMUM:
        shown = "of unknown version" if version is None else version_words(version)
        least = version_words(MINIMUM)
        raise TargetError(f"{path} is {shown}; --target cuda needs CUDA {least} or newer")
    return version


def number(arch: str) -> int:
    """80 of sm_80."""
    return int(arch.removeprefix("sm_"))


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


def _resident(kernels: Iterable[Kernel], source: str) -> Iterator[Kernel]:
    """Kernels with their threads, as the source bounds them, and the blocks that run at once."""
    threads = {name: int(count) for count, name in re.findall(r"__launch_bounds__\((\d+)\) (\w+)", source)}
    for kernel in kernels:
        count = threads.get(kernel.name)
        if count is None:
            yield kernel
            continue
        blocks = resident_blocks(kernel.arch, count, kernel.registers, kernel.shared)
        share = round(resident_share(kernel.arch, count, blocks), 3)
        yield replace(kernel, threads=count, blocks=blocks, occupancy=share)
