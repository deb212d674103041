"""Weights that arrive as integers and keep them: which do, under which settings."""

from __future__ import annotations

from sdc.ir.params import Param
from sdc.ir.quantised import Grid, narrowed, stored_grid
from sdc.passes.base import PassOptions

__all__ = ["aligns", "kept_grid"]

SMALLEST_BLOCK = 4  # two channels spread an outlier over two: not worth a transform


def aligns(options: PassOptions) -> bool:
    """Whether smoothing or rotation is asked for, which gives every weight new values."""
    return options.smoothing != 0 or options.block >= SMALLEST_BLOCK or options.rotate_residual


def kept_grid(param: Param, options: PassOptions, group: int = 0) -> Grid | None:
    """The integers and scales that a weight keeps.

    None where it has none, where some need more bits than asked for, or where blocks of scales and groups of
    ``group`` channels (0: all) that share a threshold cut each other.
    """
    grid = stored_grid(param)
    if grid is not None and grid.bits > options.weight_bits:
        grid = narrowed(grid, options.weight_bits)
    if grid is None:
        return None
    own, spikes = grid.group or param.shape[1], group or param.shape[1]
    return grid if own % spikes == 0 or spikes % own == 0 else None
