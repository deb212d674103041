"""Orders in which a board's cores are filled, such that tiles close in number are close in place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid

__all__ = ["curves"]


def curves(grid: Grid, count: int, largest: int = 12) -> Iterator[NDArray[np.int64]]:
    """Candidate orders of the first ``count`` cores, each a permutation of cores without gaps.

    A curve runs through strips of some height, column by column, up and down; strips are stacked within a
    column of chips, and the columns are walked up and down in turn. So any run of tiles fills a compact
    block, and a model fills as few chips as possible.

    Args:
        largest: Highest strip.
    """
    seen: set[bytes] = set()
    for transposed in (False, True):
        across, along = (grid.height, grid.width) if transposed else (grid.width, grid.height)
        chip = grid.chip_height if transposed else grid.chip_width
        band = grid.chip_width if transposed else grid.chip_height
        for height in range(1, min(largest, band) + 1):
            x, y = _strips(across, along, chip, band, height, -(-count // grid.cluster))
            if transposed:
                x, y = y, x
            cores = ((y * grid.width + x)[:, None] * grid.cluster + np.arange(grid.cluster)).ravel()[:count]
            if cores.tobytes() not in seen:
                seen.add(cores.tobytes())
                yield cores


def _strips(
    width: int, height: int, chip: int, band: int, strip: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Coordinates of the first ``count`` routers along the curve."""
    parts = max(1, round(band / strip))
    inside = np.arange(parts + 1) * band // parts
    cuts = np.unique(np.concatenate([inside + b for b in range(0, height, band)]))
    xs: list[NDArray[np.int64]] = []
    ys: list[NDArray[np.int64]] = []
    found, forward = 0, True
    for column, left in enumerate(range(0, width, chip)):
        rows = list(pairwise(cuts))
        upward = column % 2 == 0
        for low, high in rows if upward else rows[::-1]:
            columns = np.arange(left, left + chip)
            x = np.repeat(columns if forward else columns[::-1], high - low)
            ladder = np.arange(low, high) if upward else np.arange(low, high)[::-1]
            y = np.where(np.arange(chip)[:, None] % 2 == 0, ladder, ladder[::-1]).ravel()
            xs.append(x)
            ys.append(y)
            found += len(x)
            forward = not forward
            if found >= count:
                return np.concatenate(xs)[:count], np.concatenate(ys)[:count]
    return np.concatenate(xs), np.concatenate(ys)
