"""What the machine can do, measured in the run that needs it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

__all__ = ["read_bandwidth"]


def read_bandwidth(threads: int) -> float:
    """Bytes per second: the best of several reductions over 512 MiB, one slice a thread."""
    data = np.ones(1 << 26, np.float64)
    slices = np.array_split(data, threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.max, slices))
            best = min(best, time.perf_counter() - start)
    return data.nbytes / best
