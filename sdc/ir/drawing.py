"""Drawing a token from logits: the same one on every target, for the same logits and the same uniform number.

A token weighs the integer 2^k e^((logit - top) / temperature), rounded; k is so large that the weights of a
whole vocabulary add up below 2^53. So their sums are exact, in 64-bit integers and in float64 alike, whatever
their order: a kernel may add up in parallel. The exponential is :func:`sdc.ir.float32.exp`, the reciprocal of
the temperature a float32.

The nucleus (arXiv 1904.09751) is the smallest set of tokens with at least ceil(top_p * total) of the total
weight: all above some weight, and of those that weigh as much, as many as are needed, first ones first. A
uniform number u in [0, 1) draws the first token, by number, at which the nucleus' weights have passed
u * mass. Products with ``top_p`` and u are float64.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sdc.ir.float32 import exp

__all__ = ["COLDEST", "draw", "inverse_temperature", "token_weights", "weight_bits"]

COLDEST: Final = 1e-30
"""Temperatures below are taken for this one: float32 holds it, and its reciprocal."""

_CUTS = (2.0**-7, 2.0**-13)  # of the likeliest token's weight
_LN2 = 0.6931471805599453


def weight_bits(vocab: int) -> int:
    """k: the likeliest of so many tokens weighs 2^k."""
    return 53 - (vocab - 1).bit_length()


def inverse_temperature(temperature: float) -> np.float32:
    """What the differences of logits are multiplied with."""
    return np.float32(1.0 / max(temperature, COLDEST))


def token_weights(logits: NDArray, temperature: float) -> NDArray:
    """Weights [vocab], integers in float32, of logits [vocab]."""
    logits = np.asarray(logits, np.float32)
    bits = weight_bits(len(logits))
    with np.errstate(over="ignore"):  # the coldest temperatures: minus infinity weighs nothing
        scaled = (logits - logits.max()) * inverse_temperature(temperature)
    weights = np.zeros(len(logits), np.float32)
    heavy = np.flatnonzero(scaled > np.float32(-(bits + 2) * _LN2))  # the rest is less than 1/2
    weights[heavy] = np.rint(exp(scaled[heavy]) * np.float32(2.0**bits))
    return weights


def draw(logits: NDArray, temperature: float, top_p: float, uniform: float) -> int:
    """A token from finite logits [vocab]: the definition that the targets' kernels are tested against.

    Args:
        temperature: Above 0.
        top_p: Within (0, 1].
        uniform: Within [0, 1), 1 excluded.
    """
    weights = token_weights(logits, temperature)
    tokens = np.flatnonzero(weights) if top_p == 1 else _nucleus(weights, top_p)
    mass = np.cumsum(weights[tokens], dtype=np.float64)
    return int(tokens[np.searchsorted(mass, uniform * mass[-1], side="right")])


def _nucleus(weights: NDArray, top_p: float) -> NDArray:
    """Its tokens, by number. Only those above a cut are sorted, which are few where they have the mass."""
    wanted = np.ceil(top_p * weights.sum(dtype=np.float64))
    top = weights.max()
    for cut in (*(top * part for part in _CUTS), 1.0):
        kept = np.flatnonzero(weights >= cut)
        if weights[kept].sum(dtype=np.float64) >= wanted:
            break
    order = kept[np.argsort(-weights[kept], kind="stable")]
    last = int(np.searchsorted(np.cumsum(weights[order], dtype=np.float64), wanted))
    nucleus: NDArray = np.sort(order[: last + 1])
    return nucleus
