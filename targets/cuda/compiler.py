"""Which of NVIDIA's compilers there is."""

from __future__ import annotations

from collections.abc import Sequence

from sdc.errors import TargetError
from sdc.targets.cuda.compiled import MINIMUM, Compiler, number, version_words
from sdc.targets.cuda.nvcc import find_nvcc
from sdc.targets.cuda.nvrtc import find_nvrtc

__all__ = ["check_archs", "find_compiler"]

_OLDEST = 80  # mma.m16n8k32 on bytes (PTX ISA, "Warp level matrix instructions")


def find_compiler() -> Compiler:
    """nvcc on the search path, else NVRTC among the installed packages.

    Raises:
        TargetError: There is neither, or what there is is too old.
    """
    try:
        return find_nvcc()
    except TargetError as no_nvcc:
        try:
            return find_nvrtc()
        except TargetError as no_nvrtc:
            least = version_words(MINIMUM)
            raise TargetError(
                f"--target cuda needs a compiler of NVIDIA's: {no_nvcc}; {no_nvrtc}. Install the CUDA "
                f"toolkit {least} or newer (developer.nvidia.com/cuda-downloads), or the packages of "
                "pip install 'sdc-compiler[cuda]'"
            ) from no_nvrtc


def check_archs(compiler: Compiler, archs: Sequence[str]) -> None:
    """Whether kernels can be compiled for such architectures.

    Raises:
        TargetError: One is too old for them, or not known to the compiler.
    """
    old = [arch for arch in archs if number(arch) < _OLDEST]
    if old:
        raise TargetError(f"arch = {old[0]}: the kernels need sm_{_OLDEST} or newer")
    known = compiler.archs()
    unknown = [arch for arch in archs if arch not in known]
    if unknown and known:
        raise TargetError(f"arch = {unknown[0]}: {compiler.name} makes code for {', '.join(known)}")
