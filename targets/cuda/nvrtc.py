"""NVIDIA's compiler as a library, from Python packages: for machines without the CUDA toolkit.

NVRTC (docs.nvidia.com/cuda/nvrtc) makes machine code, nvFatbin (docs.nvidia.com/cuda/nvfatbin) puts that of
several architectures into one binary, of the same kind as nvcc's. NVRTC brings no headers along: those come
from the packages of CUDA's run time and of its standard library.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdc.errors import TargetError
from sdc.targets.cuda.compiled import NUMERICS, Compiled, check_version, number, version_words

__all__ = ["PACKAGES", "Nvrtc", "find_nvrtc"]

# Extra "cuda" of pyproject.toml: packages of wheels, and the part that each is needed for.
PACKAGES = {
    "nvidia.cuda_nvrtc": ("lib", "libnvrtc.so.*"),
    "nvidia.nvfatbin": ("lib", "libnvfatbin.so.*"),
    "nvidia.cuda_runtime": ("include", "math_constants.h"),
    "nvidia.cuda_cccl": ("include", "cuda/std/cstdint"),
}

_WORDS = 64  # bits of addresses in the fat binary


@dataclass(frozen=True)
class Nvrtc:
    """The library, its version, and where headers lie."""

    path: Path
    version: tuple[int, int]
    fatbin: Path
    headers: tuple[Path, ...]

    @property
    def name(self) -> str:
        """For people and manifests."""
        return f"NVRTC {version_words(self.version)}"

    def archs(self) -> tuple[str, ...]:
        """The architectures that it makes machine code for (nvrtc.h, ``nvrtcGetSupportedArchs``)."""
        library, count = ctypes.CDLL(str(self.path)), ctypes.c_int()
        if library.nvrtcGetNumSupportedArchs(ctypes.byref(count)):
            return ()
        held = (ctypes.c_int * count.value)()
        return () if library.nvrtcGetSupportedArchs(held) else tuple(f"sm_{number}" for number in held)

    def fat_binary(self, source: str, archs: Sequence[str]) -> Compiled:
        """Compiles CUDA C++ for the architectures, with PTX of the lowest for newer devices.

        Raises:
            TargetError: The compiler refuses.
        """
        lowest = min(archs, key=number)
        cubins, said = dict[str, bytes](), ""
        for arch in archs:
            cubins[arch], log = self._compile(source, f"sm_{number(arch)}", "CUBIN")
            said += log
        binary = self._joined(cubins, lowest, self.ptx(source, lowest))
        return Compiled.of(binary, said, source)

    def ptx(self, source: str, arch: str) -> str:
        """PTX for an architecture. Raises as :meth:`fat_binary`."""
        return self._compile(source, f"compute_{number(arch)}", "PTX")[0].rstrip(b"\0").decode()

    def cubin(self, source: str, arch: str) -> bytes:
        """Machine code for an architecture. Raises as :meth:`fat_binary`."""
        return self._compile(source, f"sm_{number(arch)}", "CUBIN")[0]

    def _compile(self, source: str, arch: str, form: str) -> tuple[bytes, str]:
        """The program in a form (CUBIN or PTX), and what the compiler says."""
        library = ctypes.CDLL(str(self.path))
        options = [f"--gpu-architecture={arch}", "-w", *NUMERICS, *(f"-I{path}" for path in self.headers)]
        if form == "CUBIN":
            options.append("--ptxas-options=-v")
        with _program(library, source) as program:
            given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
            failed = library.nvrtcCompileProgram(program, len(options), given)
            said = _read(library, "nvrtcGetProgramLog", program).rstrip(b"\0").decode(errors="replace")
            if failed:
                raise TargetError(f"{self.path} could not compile the kernels: {said.strip()[-2000:]}")
            return _read(library, f"nvrtcGet{form}", program), said

    def _joined(self, cubins: dict[str, bytes], lowest: str, ptx: str) -> bytes:
        library = ctypes.CDLL(str(self.fatbin))
        handle, option = ctypes.c_void_p(), f"-{_WORDS}".encode()
        _check(library.nvFatbinCreate(ctypes.byref(handle), (ctypes.c_char_p * 1)(option), 1))
        try:
            for arch, cubin in cubins.items():
                size, label = ctypes.c_size_t(len(cubin)), str(number(arch)).encode()
                _check(library.nvFatbinAddCubin(handle, cubin, size, label, b"kernels"))
            text = ptx.encode() + b"\0"
            label = str(number(lowest)).encode()
            _check(library.nvFatbinAddPTX(handle, text, ctypes.c_size_t(len(text)), label, b"kernels", b""))
            size = ctypes.c_size_t()
            _check(library.nvFatbinSize(handle, ctypes.byref(size)))
            made = ctypes.create_string_buffer(size.value)
            _check(library.nvFatbinGet(handle, made))
            return made.raw
        finally:
            library.nvFatbinDestroy(ctypes.byref(handle))


def _check(code: int) -> None:
    """Every function of nvFatbin returns 0 or what went wrong (nvFatbin.h, ``nvFatbinResult``)."""
    if code:
        raise TargetError(f"nvFatbin could not join the kernels of several architectures (code {code})")


@contextmanager
def _program(library: Any, source: str) -> Iterator[ctypes.c_void_p]:
    program = ctypes.c_void_p()
    text = source.encode()
    failed = library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None)
    if failed:
        raise TargetError(f"NVRTC could not take the kernels over (code {failed})")
    try:
        yield program
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(library: Any, getter: str, program: ctypes.c_void_p) -> bytes:
    """What ``getter`` writes, after ``getterSize`` has told how much."""
    size = ctypes.c_size_t()
    failed = getattr(library, f"{getter}Size")(program, ctypes.byref(size))
    held = ctypes.create_string_buffer(size.value)
    failed = failed or getattr(library, getter)(program, held)
    if failed:
        raise TargetError(f"NVRTC's {getter} failed (code {failed})")
    return held.raw


def find_nvrtc() -> Nvrtc:
    """NVRTC among the installed Python packages.

    Raises:
        TargetError: A package is missing, or NVRTC is too old.
    """
    found = {name: _part(name, *where) for name, where in PACKAGES.items()}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise TargetError(f"no package {', '.join(missing)}")
    nvrtc, fatbin, runtime, standard = (path for path in found.values() if path is not None)
    major, minor = ctypes.c_int(), ctypes.c_int()
    ctypes.CDLL(str(nvrtc)).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    version = check_version(nvrtc, (major.value, minor.value))
    return Nvrtc(nvrtc, version, fatbin, (runtime.parent, standard.parents[2]))


def _part(package: str, folder: str, pattern: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # not even the first of its names
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return next((path for place in places for path in sorted(Path(place, folder).glob(pattern))), None)
