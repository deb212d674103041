"""Float32 functions whose bits are the same on every target that computes them.

IEEE 754 fixes the result of +, -, *, / and the square root, but neither exponentials nor the order of a sum,
nor whether a product and a sum are rounded once or twice. These are the definitions that the reference
semantics, the CPU's kernels on every instruction set, and the neuromorphic vector unit (docs/isa.md) share.
So a program gives the same logits, bit for bit, on all of them. Every operation here is rounded on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EXP_COEFFICIENTS",
    "EXP_LN2",
    "EXP_LOG2E",
    "EXP_RANGE",
    "SUM_LANES",
    "exp",
    "lane_sum",
    "rms_norm",
    "silu",
    "softcap",
    "tanh",
]

SUM_LANES: Final = 16
"""Partial sums of :func:`lane_sum`: the float32 lanes of the widest registers (AVX-512)."""

# Cephes' expf (S. Moshier, netlib.org/cephes, single/expf.c): polynomial of e^r, ln 2 in two parts, log2 e.
EXP_COEFFICIENTS: Final = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
EXP_LN2: Final = (0.693359375, -2.12194440e-4)
EXP_LOG2E: Final = 1.44269504088896341
EXP_RANGE: Final = (-106.0, 88.72283)
"""Below, the result is 0 (2^-149 is the smallest float32); above, it is that of the end."""

PIECE: Final = 1 << 14
"""Elements that a function works on at once: its intermediate values then stay in the cache."""


def _by_pieces(function: Callable[[NDArray], NDArray]) -> Callable[[NDArray], NDArray]:
    """An elementwise function of float32, applied to a large array a piece at a time."""

    @wraps(function)
    def apply(x: NDArray) -> NDArray:
        x = np.asarray(x, np.float32)
        if x.size <= PIECE:
            return function(x)
        flat, out = x.reshape(-1), np.empty(x.size, np.float32)
        for start in range(0, x.size, PIECE):
            out[start : start + PIECE] = function(flat[start : start + PIECE])
        return out.reshape(x.shape)

    return apply


@_by_pieces
def exp(x: NDArray) -> NDArray:
    """e^x, float32 of any shape, within 2 units in the last place; NaN stays NaN.

    e^x = 2^n e^r with n = round(x log2 e) and \\|r\\| <= ln 2 / 2; a polynomial for e^r by Horner's rule, and
    2^n as two factors, since n reaches 128 and -153, which no exponent of a float32 holds.
    """
    inside = np.minimum(np.maximum(x, np.float32(EXP_RANGE[0])), np.float32(EXP_RANGE[1]))  # NaN passes
    n = np.rint(inside * np.float32(EXP_LOG2E))
    high, low = (np.float32(part) for part in EXP_LN2)
    r = inside - n * high - n * low
    y = np.full_like(r, EXP_COEFFICIENTS[0])
    for coefficient in EXP_COEFFICIENTS[1:]:
        y *= r
        y += np.float32(coefficient)
    y = y * r * r + r + np.float32(1)
    whole = np.where(np.isnan(n), np.float32(0), n).astype(np.int32)
    half = whole >> 1
    with np.errstate(over="ignore", under="ignore"):
        result: NDArray = y * _power_of_two(half) * _power_of_two(whole - half)
    return result


def _power_of_two(n: NDArray) -> NDArray:
    return ((n + np.int32(127)) << np.int32(23)).view(np.float32)


def tanh(x: NDArray) -> NDArray:
    """tanh x = 1 - 2 / (e^2x + 1), float32 of any shape."""
    one, two = np.float32(1), np.float32(2)
    result: NDArray = one - two / (exp(np.asarray(x, np.float32) * two) + one)
    return result


@_by_pieces
def silu(x: NDArray) -> NDArray:
    """x / (1 + e^-x), float32 of any shape (Elfwing et al., arXiv 1702.03118)."""
    result: NDArray = x / (np.float32(1) + exp(-x))
    return result


def softcap(x: NDArray, cap: float) -> NDArray:
    """cap tanh(x / cap), float32 of any shape (Gemma 2, arXiv 2408.00118, section 2)."""
    limit = np.float32(cap)
    result: NDArray = limit * tanh(x / limit)
    return result


def lane_sum(x: NDArray) -> NDArray:
    """The sum over the last axis, float32 [..., n] -> [...].

    Lane j of :data:`SUM_LANES` adds up elements j, j + 16, j + 32, ... in order; then lanes are added in
    pairs, neighbours first: ((0 + 1) + (2 + 3)) + ...
    """
    x = np.asarray(x, np.float32)
    short = -x.shape[-1] % SUM_LANES
    if short or not x.shape[-1]:
        short = short or SUM_LANES
        x = np.concatenate([x, np.zeros((*x.shape[:-1], short), np.float32)], axis=-1)
    steps = x.reshape(*x.shape[:-1], -1, SUM_LANES)
    lanes = steps[..., 0, :].copy()
    for step in range(1, steps.shape[-2]):
        lanes += steps[..., step, :]
    while lanes.shape[-1] > 1:
        lanes = lanes[..., 0::2] + lanes[..., 1::2]
    result: NDArray = lanes[..., 0]
    return result


def rms_norm(x: NDArray, gain: NDArray, epsilon: float) -> NDArray:
    """x * (1 / sqrt(sum x^2 / n + epsilon)) * gain over the last axis, float32 [..., n].

    Source: Zhang and Sennrich, arXiv 1910.07467, equation 4.
    """
    x = np.asarray(x, np.float32)
    mean = lane_sum(np.square(x))[..., None] / np.float32(x.shape[-1])
    result: NDArray = x * (np.float32(1) / np.sqrt(mean + np.float32(epsilon))) * gain
    return result
