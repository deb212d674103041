"""Round-to-nearest quantisation with a searched scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc.ir.bfloat16 import round_to_bfloat16

__all__ = ["fit_scales", "integer_range", "on_grid", "quantise_rtn", "rounded"]

SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)


def integer_range(bits: int) -> tuple[int, int]:
    """The least and the largest weight integer: -127 and 127 for 8 bits, -8 and 7 for 4."""
    top = 2 ** (bits - 1) - 1
    return (-top if bits == 8 else -top - 1), top


def quantise_rtn(weight: NDArray, bits: int, group: int = 0) -> tuple[NDArray, NDArray]:
    """Integers and scales with ``integers * scales`` near the weight.

    8 bits take max|w| / 127. Fewer bits take, per row and group, the scale with the least squared error, see
    :func:`fit_scales`.

    Args:
        weight: [N, K] float32.
        bits: 2 to 8.
        group: Columns that share a scale; 0 for a whole row. Divides K.

    Returns:
        Integers [N, K] int8 and scales [N, K / group] float32; a group of zeros has scale 0.
    """
    rows, width = weight.shape
    groups = weight.reshape(-1, group or width)
    columns = np.ascontiguousarray(groups.T, np.float32)
    scales = fit_scales(columns, np.ones(len(columns), np.float32), bits)
    integers = rounded(groups, scales[:, None], bits).astype(np.int8).reshape(rows, width)
    return integers, scales.reshape(rows, -1)


def fit_scales(columns: NDArray, pull: NDArray, bits: int) -> NDArray:
    """One scale for each of N groups of weights.

    Below 8 bits there is one more negative integer than positive ones. A scale has the sign that lets the
    group's largest weight use it, and the least squared error among max|w| / top shrunk by :data:`SHRINK`. It
    is a bfloat16 number: with 32 weights a scale, float32 would be a fifth of all bytes that decoding reads.

    Args:
        columns: [group, N] float32.
        pull: [group] float32, what an error of each weight of a group counts.
        bits: 2 to 8.

    Returns:
        [N] float32; 0 for a group of zeros.
    """
    peak = np.abs(columns).max(0)
    _, top = integer_range(bits)
    if bits == 8:
        best: NDArray = peak / np.float32(top)
        return best
    signed = np.where(columns.max(0) == peak, -peak, peak) / np.float32(top)
    best, least = np.zeros_like(peak), np.full_like(peak, np.inf)
    for shrink in SHRINK:
        scale = round_to_bfloat16(signed * np.float32(shrink))
        loss = pull @ np.square(rounded(columns, scale, bits) * scale - columns)
        better = loss < least
        best, least = np.where(better, scale, best), np.where(better, loss, least)
    return best


def rounded(weight: NDArray, scale: NDArray, bits: int) -> NDArray:
    """The integers nearest to ``weight / scale``, as floats; ``scale`` broadcasts, and 0 divides nothing."""
    low, top = integer_range(bits)
    return np.clip(np.rint(weight / np.where(scale != 0, scale, np.float32(1))), low, top)


def on_grid(integers: NDArray, scales: NDArray) -> NDArray:
    """Integers [N, K] times scales [N, groups], float32 [N, K]."""
    return integers.astype(np.float32) * np.repeat(scales, integers.shape[1] // scales.shape[1], 1)
