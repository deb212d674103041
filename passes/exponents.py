"""The smoothing exponent of one input, by the error of the outputs that are computed from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sdc.passes.base import PassOptions
from sdc.passes.project import block_for
from sdc.passes.signs import projected_error, start_encoding

__all__ = ["EXPONENTS", "ROWS", "best_exponent"]

EXPONENTS = (0.2, 0.33, 0.5, 0.65)
CLIPS = (1.0, 0.8)
ROWS = 96  # sample tokens an operation


def best_exponent(
    x: NDArray, weights: Sequence[NDArray], scales: Callable[[float], NDArray], options: PassOptions
) -> float:
    """The exponent whose smoothing, with the projection that follows, leaves the least squared output error.

    All exponents are compared at the options' own levels, and at equal spikes where these set a floor. The
    error of an input is carried back through the projection and the scales, so that one matrix
    W^T W serves all: e = s (H^T enc(H(x / s)) / block - x / s), loss = e W^T W e^T.

    Args:
        x: Sample inputs [R, K].
        weights: Of the linears that read them, [N, K] each.
        scales: s [K] of an exponent.
        options: Levels, groups, spikes, block, seed.
    """
    gram = np.sum([w.T @ w for w in weights], axis=0)
    losses = {a: min(_loss(x, scales(a), gram, options, c) for c in CLIPS) for a in EXPONENTS}
    return min(losses, key=lambda a: losses[a])


def _loss(x: NDArray, scales: NDArray, gram: NDArray, options: PassOptions, clip: float) -> float:
    width = x.shape[1]
    block = max(1, block_for(width, options.block))
    signs = np.where(np.random.default_rng(options.seed).integers(0, 2, width), 1, -1).astype(np.float32)
    encoding = replace(start_encoding(options, width), clip_ratio=clip)
    error = projected_error(x / scales, signs, block, encoding, options.spikes) * scales
    return float(np.einsum("rk,rk->", error @ gram, error))
