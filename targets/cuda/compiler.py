"""Which of NVIDIA's compilers there is."""

from __future__ import annotations

from sdc.errors import TargetError
from sdc.targets.cuda.compiled import MINIMUM, Compiler, version_words
from sdc.targets.cuda.nvcc import find_nvcc
from sdc.targets.cuda.nvrtc import find_nvrtc

__all__ = ["find_compiler"]


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
