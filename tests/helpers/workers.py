"""Workers of a sharded model in this process: all-reduce through NumPy, and Disco's thread workers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Meeting", "run_together"]


class Meeting:
    """Where workers add up their parts: everybody brings one array and leaves with the sum."""

    def __init__(self, workers: int) -> None:
        self.barrier = threading.Barrier(workers, timeout=60)
        self.parts: list[NDArray | None] = [None] * workers
        self.mine = threading.local()

    def add_up(self, part: NDArray) -> NDArray:
        """The sum over workers, in their order."""
        self.parts[self.mine.worker] = part
        self.barrier.wait()
        total = np.sum(np.stack([p for p in self.parts if p is not None]), 0, dtype=part.dtype)
        self.barrier.wait()
        return total


def run_together(meeting: Meeting, work: Callable[[int], Any]) -> list[Any]:
    """``work(worker)`` on a thread for each; results in the order of the workers."""
    results: list[Any] = [None] * len(meeting.parts)
    errors: list[BaseException] = []

    def one(worker: int) -> None:
        meeting.mine.worker = worker
        try:
            results[worker] = work(worker)
        except BaseException as error:  # shown by the caller's thread
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=one, args=(w,)) for w in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
