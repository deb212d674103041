"""Weights that arrive as integers and keep them: which do, under which settings."""

from __future__ import annotations

from sdc.ir.params import Param
from sdc.ir.quantised import Grid, stored_grid
from sdc.passes.base import PassOptions

__all__ = ["aligns", "kept_grid"]

SMALLEST_BLOCK = 4  # two channels spread an outlier over two: not worth a transform


def aligns(options: PassOptions) -> bool:
    """Whether smoothing or rotation is asked for, which gives every weight new values."""
    return options.smoothing != 0 or options.block >= SMALLEST_BLOCK or options.rotate_residual


def kept_grid(param: Param, options: PassOptions, group: int = 0) -> Grid | None:
    """The integers and scales that a weight keeps.

    None where it has none, where they take more bits than asked for, or where blocks of scales and groups of
    ``group`` channels (0: all) that share a threshold cut each other.
    """
    grid = stored_grid(param)
    if grid is None or grid.bits > options.weight_bits:
        return None
    own, spikes = grid.group or param.shape[1], group or param.shape[1]
    return grid if own % spikes == 0 or spikes % own == 0 else None
