"""Work on all processors of this machine, with results that no timing of threads can change."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead", "cpus"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpus() -> int:
    """Processors that this process may use: those of its affinity, where the system knows such a thing."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Iterator[Result]:
    """``map(function, items)`` in threads, in the order of the items.

    NumPy, BLAS and TVM's compiler let other threads run. At most ``threads`` items (one a processor where
    None) are being computed, and at most one more is finished and not yet taken: what they hold is all the
    memory. Where one fails, the iterator raises in its place, and what has not begun by then never does.
    """
    threads = cpus() if threads is None else threads
    if threads < 2:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
