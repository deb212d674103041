"""Workers of a sharded model as plain threads, for evaluators: without Disco."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from sdc.targets.cuda.workers import Meeting

__all__ = ["Threads"]


class Threads:
    """``workers`` threads that add up their parts."""

    def __init__(self, workers: int) -> None:
        self.workers, self.meeting = workers, Meeting(workers)
        self.mine = threading.local()

    def add_up(self, part: NDArray) -> NDArray:
        """The sum over workers, from the thread of one of them."""
        return self.meeting.add_up(self.mine.worker, part)

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """``work(worker)`` on a thread for each; results in the order of the workers."""
        results: list[Any] = [None] * self.workers
        errors: list[BaseException] = []

        def one(worker: int) -> None:
            self.mine.worker = worker
            try:
                results[worker] = work(worker)
            except BaseException as error:  # shown by the caller's thread
                errors.append(error)
                self.meeting.leave()

        threads = [threading.Thread(target=one, args=(w,)) for w in range(self.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results
