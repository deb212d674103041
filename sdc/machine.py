"""What this machine can do, measured in the run that needs it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

__all__ = ["multiply_rate", "read_bandwidth"]


def read_bandwidth(threads: int, size: int = 1 << 29) -> float:
    """Bytes per second: the best of several reductions over ``size`` bytes, one slice a thread."""
    data = np.ones(size // 8, np.float64)
    slices = np.array_split(data, threads)
    with ThreadPoolExecutor(threads) as pool:
        return data.nbytes / _best(lambda: list(pool.map(np.max, slices)), 5)


def multiply_rate(width: int = 1024) -> float:
    """Float32 operations per second (a multiply-add is two) of the BLAS product of two square matrices."""
    a = np.ones((width, width), np.float32)
    return 2 * width**3 / _best(lambda: a @ a, 5)


def _best(work: Callable[[], object], rounds: int) -> float:
    """Seconds of the quickest round."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
