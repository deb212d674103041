"""The GPU: found or not, its memory, and tensors on it."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray

from sdc.errors import DeviceMemoryError, NoDeviceError
from sdc.targets.fused.machine import Machine
from sdc.targets.fused.runner import Cell
from sdc.targets.fused.signature import State

__all__ = ["DeviceMemory", "check_room", "device_names", "find_devices"]


def device_names() -> list[str]:
    """What the machine's CUDA devices are called; none without a driver."""
    devices = itertools.takewhile(lambda device: device.exist, map(tvm.cuda, itertools.count()))
    return [str(device.device_name) for device in devices]


def find_devices(count: int = 1) -> list[Any]:
    """The first CUDA devices.

    Raises:
        NoDeviceError: There are fewer, or no driver.
    """
    devices = [tvm.cuda(number) for number in range(count)]
    found = sum(1 for device in devices if device.exist)
    if not found:
        raise NoDeviceError(
            "the program was compiled for NVIDIA GPUs, and this machine has no CUDA device (nvidia-smi lists "
            "them); compile with --target cpu to run it here"
        )
    if found < count:
        raise NoDeviceError(
            f"the program was cut for {count} NVIDIA GPUs, and this machine has {found} (nvidia-smi lists "
            f"them); compile with --shards {found} to run it here"
        )
    return devices


def check_room(device: Any, needed: int) -> None:
    """Refuses a program that the device's free memory does not hold.

    Raises:
        DeviceMemoryError: More bytes are needed than free.
    """
    free = device.available_global_memory
    if free is not None and needed > free:
        raise DeviceMemoryError(
            f"{device.device_name} has {free / 2**20:.0f} MiB free and the program needs "
            f"{needed / 2**20:.0f} MiB; free memory, or compile with a smaller --max-seq or --weights int4"
        )


@contextmanager
def memory_named(device: Any) -> Iterator[None]:
    """Says what is free of a device's memory that has run out; every other error passes.

    Raises:
        DeviceMemoryError: An allocation in the block failed.
    """
    try:
        yield
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        raise DeviceMemoryError(
            f"{device.device_name} ran out of memory: {device.available_global_memory / 2**20:.0f} MiB are "
            "free and more were needed; free memory, or compile with a smaller --max-seq or --weights int4"
        ) from error


class _DeviceCell:
    """Written when it is read: of many sequences that decode together, each has a cell that nothing reads."""

    def __init__(self, shape: tuple[int, ...], device: Any) -> None:
        self._shape, self._wanted = shape, -1
        self._tensor = tvm.runtime.tensor(np.zeros(shape, np.int64), device)

    @property
    def tensor(self) -> Any:
        if self._wanted >= 0:
            self._tensor.copyfrom(np.full(self._shape, self._wanted, np.int64))
            self._wanted = -1
        return self._tensor

    def set(self, value: int) -> None:
        self._wanted = value


# A DLTensor in 64-bit words (dlpack.h): data, device, dimensions and type, shape, strides, byte offset.
_DATA, _BYTE_OFFSET = 0, 5


@dataclass(frozen=True)
class _Capsule:
    """A tensor on its way through DLPack (dmlc.github.io/dlpack, "Python Specification")."""

    capsule: Any
    device: tuple[int, int]

    def __dlpack__(self, **_wishes: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def _part(whole: Any, shape: tuple[int, ...], offset: int) -> Any:
    """A tensor in the memory of another, ``offset`` bytes from its start.

    TVM's view keeps the other's address and a byte offset, which compiled programs refuse; here the address
    itself moves. It holds the other's memory.
    """
    view = whole._create_view(shape, relative_byte_offset=offset)
    capsule = view._to_dlpack()
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    words = ctypes.cast(address(capsule, b"dltensor"), ctypes.POINTER(ctypes.c_uint64))
    words[_DATA] += words[_BYTE_OFFSET]
    words[_BYTE_OFFSET] = 0
    return tvm_ffi.from_dlpack(_Capsule(capsule, view.__dlpack_device__()))


class _DeviceMachine(Machine):
    """Functions that raise DeviceMemoryError where memory for their results runs out."""

    def __init__(self, module: Any, device: Any) -> None:
        super().__init__(module, [(d.dlpack_device_type(), d.index) for d in (device, tvm.cpu())])
        self._device = device

    def __getitem__(self, name: str) -> Callable[..., Any]:
        function = super().__getitem__(name)

        def run(*arguments: Any) -> Any:
            with memory_named(self._device):
                return function(*arguments)

        return run


class DeviceMemory:
    """See :class:`sdc.targets.fused.runner.Memory`: everything on one GPU, weights copied once."""

    def __init__(self, device: Any) -> None:
        self.device = device

    def machine(self, module: Any) -> Machine:
        """A virtual machine that launches on the device."""
        return _DeviceMachine(module, self.device)

    def weight(self, array: NDArray) -> Any:
        """A copy on the device."""
        return self.tensor(array)

    def tensor(self, array: NDArray) -> Any:
        """A copy on the device.

        Raises:
            DeviceMemoryError: There is no room for it.
        """
        with memory_named(self.device):
            return tvm.runtime.tensor(array, self.device)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A tensor of zeros on the device."""
        return self.tensor(np.zeros(shape, dtype))

    def copies(self, count: int, states: Sequence[State]) -> list[tuple[Any, list[Any]]]:
        """Of each state a tensor [count, ...] of zeros on the device, and its ``count`` parts as tensors.

        Raises:
            DeviceMemoryError: The device's free memory is too small.
        """
        sizes = [int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in states]
        check_room(self.device, count * sum(sizes))
        made = []
        for state, size in zip(states, sizes, strict=True):
            whole = self.zeros((count, *state.shape), state.dtype)
            made.append((whole, [_part(whole, state.shape, i * size) for i in range(count)]))
        return made

    def cell(self, shape: tuple[int, ...]) -> Cell:
        """An int64 tensor with one element, 0."""
        return _DeviceCell(shape, self.device)
