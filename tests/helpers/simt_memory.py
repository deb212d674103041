"""The memories of the emulator: global arrays, a block's shared arrays with race detection, registers."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Global", "Local", "Memory", "Shared"]

_GARBAGE = 85


class Memory(Protocol):
    """Loads and stores by flat element number, one per thread or one row of numbers per thread."""

    def load(self, index: NDArray, mask: NDArray) -> NDArray: ...

    def store(self, index: NDArray, value: NDArray, mask: NDArray) -> None: ...

    def reset(self) -> None:
        """Before a launch: garbage in what a kernel's threads own, and nothing touched."""


class Access(Exception):
    """A thread touched memory in a way that no thread may."""


def _aligned(name: str, index: NDArray, mask: NDArray) -> None:
    """A vector access lies on a multiple of its size."""
    if index.ndim == 2 and (index[mask, 0] % index.shape[1]).any():
        raise Access(f"{name}: an access of {index.shape[1]} elements off its alignment")


class Global:
    """An array that all threads see."""

    def __init__(self, name: str, array: NDArray) -> None:
        self.name, self.data = name, array.reshape(-1)

    def reset(self) -> None:
        """The caller's contents stay."""

    def load(self, index: NDArray, mask: NDArray) -> NDArray:
        _aligned(self.name, index, mask)
        active = mask if index.ndim == 1 else mask[:, None]
        return self.data[np.where(active, index, 0)]

    def store(self, index: NDArray, value: NDArray, mask: NDArray) -> None:
        _aligned(self.name, index, mask)
        self.data[index[mask]] = value[mask]
        # Two threads that give one element different values in one step: who wins is nobody's guess.
        if (self.data[index[mask]].view(np.uint8) != _bytes(value[mask], self.data.dtype)).any():
            raise Access(f"{self.name}: threads store different values to one element")


def _bytes(value: NDArray, dtype: Any) -> NDArray:
    return np.ascontiguousarray(value.astype(dtype)).view(np.uint8)


class Local:
    """Every thread's own array."""

    def __init__(self, name: str, size: int, dtype: str, grid: Any) -> None:
        self.inner = Global(name, np.empty(size * grid.lanes, dtype))
        self.base = np.arange(grid.lanes) * size

    def reset(self) -> None:
        self.inner.data[:] = _GARBAGE

    def at(self, index: NDArray) -> NDArray:
        return index + (self.base if index.ndim == 1 else self.base[:, None])

    def load(self, index: NDArray, mask: NDArray) -> NDArray:
        active = mask if index.ndim == 1 else mask[:, None]
        return self.inner.data[np.where(active, self.at(index), 0)]

    def store(self, index: NDArray, value: NDArray, mask: NDArray) -> None:
        self.inner.data[self.at(index)[mask]] = value[mask]


class Shared:
    """A block's array. Between two barriers an element belongs to the thread that writes it."""

    def __init__(self, name: str, size: int, dtype: str, grid: Any) -> None:
        total = size * grid.blocks
        self.inner = Global(name, np.empty(total, dtype))
        self.base, self.grid = grid.block_of * size, grid
        self.writer, self.written, self.reader, self.read = np.empty((4, total), np.int64)

    def reset(self) -> None:
        self.inner.data[:] = _GARBAGE
        for history in (self.writer, self.written, self.reader, self.read):
            history[:] = -1

    def at(self, index: NDArray) -> NDArray:
        return index + (self.base if index.ndim == 1 else self.base[:, None])

    def of_threads(self, numbers: NDArray, index: NDArray, mask: NDArray) -> NDArray:
        """Each thread's number, once for every element that it accesses."""
        column = numbers if index.ndim == 1 else numbers[:, None]
        return np.broadcast_to(column, index.shape)[mask]

    def load(self, index: NDArray, mask: NDArray) -> NDArray:
        at, thread = self.at(index)[mask], self.of_threads(self.grid.thread, index, mask)
        epoch = self.of_threads(self.grid.epoch, index, mask)
        if ((self.written[at] == epoch) & (self.writer[at] != thread)).any():
            raise Access(f"{self.inner.name}: read without a barrier after another thread's write")
        again = (self.read[at] == epoch) & (self.reader[at] != thread)
        self.reader[at], self.read[at] = np.where(again, -2, thread), epoch
        # Threads that read one element in this same step.
        self.reader[at] = np.where(self.reader[at] == thread, self.reader[at], -2)
        return self.inner.load(self.at(index), mask)

    def store(self, index: NDArray, value: NDArray, mask: NDArray) -> None:
        at, thread = self.at(index)[mask], self.of_threads(self.grid.thread, index, mask)
        epoch = self.of_threads(self.grid.epoch, index, mask)
        written = (self.written[at] == epoch) & (self.writer[at] != thread)
        read = (self.read[at] == epoch) & (self.reader[at] != thread)
        if written.any() or read.any():
            raise Access(f"{self.inner.name}: written without a barrier after another thread's access")
        self.writer[at], self.written[at] = thread, epoch
        if (self.writer[at] != thread).any():
            raise Access(f"{self.inner.name}: two threads write one element")
        self.inner.store(self.at(index), value, mask)
