"""Activations as spikes while a model is still a float one: what an encoding does to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc.ir.model import Encoding
from sdc.ir.ops import OPS

__all__ = ["dequantised", "encode", "share_of_zeros"]


def dequantised(x: NDArray, encoding: Encoding) -> NDArray:
    """What the spikes of x [..., K] stand for: counts times thresholds, float32."""
    group = encoding.group or x.shape[-1]
    counts, theta = encode(x, encoding)
    wide = counts.astype(np.float32).reshape(*theta.shape, group) * theta[..., None]
    return wide.reshape(x.shape)


def encode(x: NDArray, encoding: Encoding) -> tuple[NDArray, NDArray]:
    """Counts [..., K] and thresholds [..., groups] of x by ``sdc.spike_encode``."""
    counts, theta = OPS["spike_encode"].reference(
        x,
        levels=encoding.levels,
        group=encoding.group or x.shape[-1],
        clip_ratio=encoding.clip_ratio,
        dead_zone=encoding.dead_zone,
        floor=encoding.floor,
    )
    return counts, theta


def share_of_zeros(x: NDArray, encoding: Encoding) -> float:
    """How many of the counts of x [..., K] are 0, of 1."""
    counts, _ = encode(x, encoding)
    return 1 - np.count_nonzero(counts) / max(1, counts.size)
