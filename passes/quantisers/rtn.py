"""Round-to-nearest quantisation with a searched scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["largest_integer", "on_grid", "quantise_rtn"]

SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)


def largest_integer(bits: int) -> int:
    """The largest weight integer: 127 for 8 bits, 7 for 4 (symmetric, so that -w is exact too)."""
    return 2 ** (bits - 1) - 1


def quantise_rtn(weight: NDArray, bits: int, group: int = 0) -> tuple[NDArray, NDArray]:
    """Integers and scales with ``integers * scales`` near the weight.

    8 bits take max|w| / 127; fewer bits take, per row and group, the scale with the least squared error among
    max|w| / top shrunk by up to a quarter.

    Args:
        weight: [N, K] float32.
        bits: 2 to 8.
        group: Columns that share a scale; 0 for a whole row. Divides K.

    Returns:
        Integers [N, K] int8 and scales [N, K / group] float32; a group of zeros has scale 0.
    """
    rows, width = weight.shape
    groups = weight.reshape(rows, -1, group or width)
    top = np.float32(largest_integer(bits))
    peak = np.abs(groups).max(-1, keepdims=True).astype(np.float32)
    best = np.zeros_like(peak)
    least = np.full(peak.shape, np.inf, np.float32)
    for shrink in SHRINK if bits < 8 else (1.0,):
        scale = peak * np.float32(shrink) / top
        error = np.square(_round(groups, scale, top) * scale - groups).sum(-1, keepdims=True)
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
    integers = _round(groups, best, top).astype(np.int8).reshape(rows, width)
    return integers, best[..., 0].astype(np.float32)


def _round(groups: NDArray, scale: NDArray, top: np.float32) -> NDArray:
    safe = np.where(scale > 0, scale, np.float32(1))
    return np.clip(np.rint(groups / safe), -top, top)


def on_grid(integers: NDArray, scales: NDArray) -> NDArray:
    """Integers [N, K] times scales [N, groups], float32 [N, K]."""
    return integers.astype(np.float32) * np.repeat(scales, integers.shape[1] // scales.shape[1], 1)
