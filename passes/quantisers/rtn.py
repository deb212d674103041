"""Round-to-nearest quantisation with a searched scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc.ir.bfloat16 import round_to_bfloat16

__all__ = ["fit_scales", "integer_range", "on_grid", "quantise_rtn", "rounded"]

# Weights that are worked on together: with what is made of them they stay in a third-level cache. Smaller
# pieces would stay nearer, but then threads that quantise side by side wait for Python's lock more than they
# work. Those of one group of 32 lie at no multiple of 4 KiB, where a first-level cache has few places.
_PIECE = 496 << 10
_ALIGNED = 16
_TOGETHER = 8

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
    groups = weight.reshape(-1, group or width).astype(np.float32, copy=False)
    integers, scales = np.empty(groups.shape, np.int8), np.empty(len(groups), np.float32)
    step = max(_ALIGNED, _PIECE // groups.shape[1] // _ALIGNED * _ALIGNED)
    for start in range(0, len(groups), step):
        piece = slice(start, start + step)
        columns = np.ascontiguousarray(groups[piece].T)
        scales[piece] = fit_scales(columns, None, bits)
        integers[piece] = rounded(columns, scales[piece], bits, out=columns).astype(np.int8).T
    return integers.reshape(rows, width), scales.reshape(rows, -1)


def fit_scales(columns: NDArray, pull: NDArray | None, bits: int) -> NDArray:
    """One scale for each of N groups of weights.

    Below 8 bits there is one more negative integer than positive ones. A scale has the sign that lets the
    group's largest weight use it, and the least squared error among max|w| / top shrunk by :data:`SHRINK`. It
    is a bfloat16 number: with 32 weights a scale, float32 would be a fifth of all bytes that decoding reads.

    Args:
        columns: [group, N] float32.
        pull: [group] float32, what an error of each weight of a group counts; None: all the same.
        bits: 2 to 8.

    Returns:
        [N] float32; 0 for a group of zeros.
    """
    high = columns.max(0)
    peak = np.abs(np.maximum(high, -columns.min(0)))
    _, top = integer_range(bits)
    if bits == 8:
        scales: NDArray = peak / np.float32(top)
        return scales
    signed = np.where(high == peak, -peak, peak) / np.float32(top)
    best, least = np.zeros_like(peak), np.full_like(peak, np.inf)
    error = np.empty_like(columns)
    for shrink in SHRINK:
        scale = round_to_bfloat16(signed * np.float32(shrink))
        rounded(columns, scale, bits, out=error)
        error *= scale
        error -= columns
        np.square(error, out=error)
        loss = _sum(error) if pull is None else pull @ error
        better = loss < least
        np.copyto(best, scale, where=better)
        np.copyto(least, loss, where=better)
    return best


def _sum(rows: NDArray) -> NDArray:
    """The sum of rows [R, N] float32: eight at a time, one after another, and then the sums of eight.

    The order is fixed here so that no library's or processor's shows in a scale.
    """
    whole = len(rows) // _TOGETHER * _TOGETHER
    eights = np.add.reduce(rows[:whole].reshape(-1, _TOGETHER, rows.shape[1]), 1)
    total: NDArray = np.add.reduce(eights, 0)
    return total if whole == len(rows) else total + np.add.reduce(rows[whole:], 0)


def rounded(weight: NDArray, scale: NDArray, bits: int, out: NDArray | None = None) -> NDArray:
    """The integers nearest to ``weight / scale``, as floats; ``scale`` broadcasts, and 0 divides nothing."""
    low, top = integer_range(bits)
    out = np.divide(weight, np.where(scale != 0, scale, np.float32(1)), out=out)
    np.rint(out, out=out)
    return np.clip(out, np.float32(low), np.float32(top), out=out)


def on_grid(integers: NDArray, scales: NDArray) -> NDArray:
    """Integers [N, K] times scales [N, groups], float32 [N, K]."""
    return integers.astype(np.float32) * np.repeat(scales, integers.shape[1] // scales.shape[1], 1)
