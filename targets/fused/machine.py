"""TVM's virtual machine and tensors by its run-time library alone.

The package ``tvm`` holds the compiler: importing it takes a second and 150 MB, which running a program need
not spend. The run-time library is loaded as ``tvm.base`` loads it, so that both may live in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi
import tvm_ffi_orcjit
from numpy.typing import NDArray
from tvm_ffi.libinfo import load_lib_ctypes

from sdc.errors import TargetError
from sdc.targets.pages import zeroed

__all__ = ["Machine", "as_array", "host_machine", "load_objects", "tensor_of", "zeros"]

# DLPack device type kDLCPU and the pooled allocator (tvm/runtime/vm.py, VirtualMachine).
_CPU, _POOLED = 1, 2

# Our objects need no C++ runtime. Without this name the loader would ask the machine's C++ compiler for one.
_NO_COMPILER = "no-compiler"


class Machine:
    """A program's functions by name.

    Args:
        module: As loaded.
        devices: (DLPack device type, index) of those that it runs on; the processor comes last.
    """

    def __init__(self, module: Any, devices: Sequence[tuple[int, int]]) -> None:
        self._machine = module["vm_load_executable"]()
        places = [number for device in devices for number in (*device, _POOLED)]
        self._machine["vm_initialization"](*places)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = self._machine[name]
        return function

    def set_instrument(self, instrument: Callable[..., int] | None) -> None:
        """Calls ``instrument`` before and after every kernel, until set to None."""
        self._machine["set_instrument"](instrument)


def host_machine(module: Any) -> Machine:
    """The machine of a program that runs on this processor."""
    return Machine(module, [(_CPU, 0)])


@cache
def _load_runtime() -> Any:
    """The run-time library, whose symbols compiled programs call."""
    return load_lib_ctypes("apache-tvm", "tvm_runtime", "RTLD_GLOBAL")


def load_objects(paths: Sequence[Path]) -> Any:
    """The module of a program's object files.

    Raises:
        TargetError: The files are no object files for this machine.
    """
    _load_runtime()
    try:
        return tvm_ffi_orcjit.default_session().load_module(list(paths), cxx=_NO_COMPILER)
    except RuntimeError as error:
        raise TargetError(f"{paths[0].parent}: cannot load the program's object files: {error}") from error


def zeros(shape: Sequence[int], dtype: str) -> NDArray:
    """An array of zeros on pages of its own: memory that nobody touches is none."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return zeroed(size).view(dtype).reshape(shape)


def as_array(tensor: Any) -> NDArray:
    """A tensor's numbers: seen in place on the processor, copied from any other device."""
    if tensor.device.dlpack_device_type() == _CPU:
        return np.from_dlpack(tensor)
    array: NDArray = tensor.numpy()
    return array


def tensor_of(array: NDArray) -> Any:
    """A tensor that shares an array's memory."""
    return tvm_ffi.from_dlpack(array)
