"""Memory in huge pages.

A decoder reads all of its weights for every token. In pages of 4 KiB that is a walk through the page tables
every 64 cache lines, where the processor's prefetch stops as well; in pages of 2 MiB SmolLM2 decodes 1.4
times as fast (docs/decisions/0007-huge-pages.md). Linux gives them to memory of no file only, where asked.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["available_memory", "zeroed"]

HUGE = 1 << 21  # x86-64 and AArch64 with 4 KiB pages


def zeroed(size: int) -> NDArray:
    """``size`` zero bytes on pages of their own, huge ones where that is worth it; memory that nobody touches
    is none."""
    huge = size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE")
    pages = mmap.mmap(-1, size + HUGE if huge else max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(pages, np.uint8)
    if not huge:
        return whole[:size]
    try:
        pages.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them: small pages serve as well, only slower
        return whole[:size]
    start = -whole.ctypes.data % HUGE
    return whole[start : start + size]


def available_memory() -> int:
    """Bytes that programs may take before Linux swaps; 0 where that cannot be known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = next((line.split() for line in lines if line.startswith("MemAvailable:")), None)
    return int(found[1]) * 1024 if found else 0
