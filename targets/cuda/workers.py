"""Workers of a sharded program: threads of TVM's Disco runtime in this process, one a device.

The compiled program calls Disco's all-reduce, which is NCCL's where TVM was built with it. The wheel of
apache-tvm 0.27 was not, though it says USE_NCCL = ON: no function of that library is in it. There partial
sums meet in this machine's memory: a copy there and back, and a wait of the host for the device, each time.
"""

from __future__ import annotations

import importlib
import itertools
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import tvm_ffi
from numpy.typing import NDArray

__all__ = ["Meeting", "Workers", "has_nccl"]

T = TypeVar("T")

# TVM's all-reduce calls runtime.disco.LIBRARY.allreduce; LIBRARY is empty until one is initialised.
_ALL_REDUCE = "runtime.disco..allreduce"
_INIT_NCCL = "runtime.disco.nccl.init_ccl"
_STEP = "sdc.workers.step"


class Meeting:
    """Where workers add up their parts: everybody brings one array and leaves with the sum."""

    def __init__(self, workers: int) -> None:
        self._barrier = threading.Barrier(workers)
        self._parts: list[NDArray | None] = [None] * workers

    def add_up(self, worker: int, part: NDArray) -> NDArray:
        """The sum over workers, in their order.

        Raises:
            threading.BrokenBarrierError: Another worker has left (:meth:`leave`).
        """
        self._parts[worker] = part
        self._barrier.wait()
        total: NDArray = np.sum(np.stack([p for p in self._parts if p is not None]), 0, dtype=part.dtype)
        self._barrier.wait()
        return total

    def leave(self) -> None:
        """Says that a worker failed and will not come; the others wait for it no longer."""
        self._barrier.abort()


class _Task:
    """Something that every worker does at the same time."""

    def __init__(self, workers: int, work: Callable[[int], Any]) -> None:
        self.work, self.meeting = work, Meeting(workers)
        self.done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()

    def run(self, worker: int) -> None:
        """One worker's part; nothing is raised, because a thread of Disco's has nobody to tell."""
        try:
            self.done.put((worker, self.work(worker), None))
        except BaseException as error:  # handed to the caller's thread
            self.done.put((worker, None, error))
            self.meeting.leave()


_TASKS: dict[int, _Task] = {}
_NUMBERS = itertools.count()
_HERE = threading.local()  # the task of this thread, and which worker it is


class Workers:
    """A session of ``count`` workers.

    Args:
        devices: The CUDA devices to tell NCCL of, where there is one; empty: sums meet in host memory.
    """

    def __init__(self, count: int, devices: Sequence[int] = ()) -> None:
        for name, function in ((_STEP, _step), (_ALL_REDUCE, _add_up)):
            tvm_ffi.register_global_func(name, function, override=True)
        self.count = count
        self._session = _disco().ThreadedSession(count)
        weakref.finalize(self, self._session.shutdown)
        self._run = self._session.get_global_func(_STEP)
        if devices and has_nccl():
            self._session.init_ccl("nccl", *devices)

    def every(self, work: Callable[[int], T]) -> list[T]:
        """``work(worker)`` on every worker's thread; results in the order of the workers.

        Raises:
            BaseException: What the first worker to fail raised.
        """
        number, task = next(_NUMBERS), _Task(self.count, work)
        _TASKS[number] = task
        try:
            self._session.call_packed(self._run, number)
            ended = [task.done.get() for _ in range(self.count)]
        finally:
            del _TASKS[number]
        for _, _, error in ended:
            if error is not None:  # the first to fail; others may have waited for it in vain
                raise error
        return [result for _, result, _ in sorted(ended, key=lambda each: each[0])]


def has_nccl() -> bool:
    """Whether TVM was built with NCCL."""
    return tvm_ffi.get_global_func(_INIT_NCCL, allow_missing=True) is not None


def _disco() -> Any:
    """The module; apache-tvm 0.27 imports it before its functions are registered, so they are bound again."""
    module = importlib.import_module("tvm.runtime.disco")
    tvm_ffi.init_ffi_api("runtime.disco", "tvm.runtime.disco._ffi_api")
    return module


def _step(number: int) -> None:
    """What Disco calls on each worker's thread."""
    own = tvm_ffi.get_global_func("runtime.disco.worker_id")()
    _HERE.worker = int(own if isinstance(own, int) else own[0])
    _HERE.task = _TASKS.get(int(number))
    if _HERE.task is not None:  # else the caller was interrupted and waits no longer
        _HERE.task.run(_HERE.worker)


def _add_up(send: Any, _kind: int, _in_group: bool, receive: Any) -> None:
    """All-reduce through host memory; sums alone, as the sharding pass asks for no other."""
    receive.copyfrom(_HERE.task.meeting.add_up(_HERE.worker, send.numpy()))
