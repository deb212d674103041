"""How a spike count becomes a train of unit spikes over time steps, and back.

For every coding, ``sum over t of step_weights[t] * trains[t] == counts``: accumulating a train step by step
gives the same integers as the collapsed product.

* ``ternary`` (rate): sign(s) in the first |s| of T = D steps.
* ``bitwise``: step t of T = ceil(log2(D + 1)) carries sign(s) times bit t of |s| and weighs 2^t.
* ``binary``: unsigned spikes of two populations (positive, then negative), T = 2 D steps; those of the
  second population are subtracted. The older scheme of spiking language models (SpikeLLM,
  arXiv 2407.04752), kept as the baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sdc.ir.model import Coding

__all__ = ["expand", "integrate", "spikes_per_count", "step_weights", "time_steps"]


def time_steps(coding: Coding, levels: int) -> int:
    """T: steps of one train for counts up to ``levels``."""
    if coding == "ternary":
        return levels
    if coding == "bitwise":
        return levels.bit_length()
    if coding == "binary":
        return 2 * levels
    raise ValueError(f"unknown coding {coding!r}; known: ternary, bitwise, binary")


def step_weights(coding: Coding, levels: int) -> NDArray[np.int32]:
    """What a spike of each step counts for, int32 [T]."""
    steps = time_steps(coding, levels)
    if coding == "bitwise":
        return (1 << np.arange(steps)).astype(np.int32)
    if coding == "binary":
        return np.repeat(np.array([1, -1], np.int32), levels)
    return np.ones(steps, np.int32)


def expand(counts: NDArray, coding: Coding, levels: int) -> NDArray[np.int8]:
    """Trains [T, ...] int8 in {-1, 0, 1} (``binary``: {0, 1}) for counts [...] within +-levels."""
    signed = counts.astype(np.int32)
    steps = np.arange(time_steps(coding, levels)).reshape(-1, *[1] * counts.ndim)
    if coding == "ternary":
        return (np.sign(signed) * (steps < np.abs(signed))).astype(np.int8)
    if coding == "bitwise":
        return (np.sign(signed) * ((np.abs(signed) >> steps) & 1)).astype(np.int8)
    positive = (steps < levels) & (steps < signed)
    negative = (steps >= levels) & (steps - levels < -signed)
    return (positive | negative).astype(np.int8)


def integrate(trains: NDArray, coding: Coding, levels: int) -> NDArray[np.int32]:
    """Counts [...] from trains [T, ...]: the inverse of :func:`expand`."""
    return np.tensordot(step_weights(coding, levels), trains.astype(np.int32), axes=1).astype(np.int32)


def spikes_per_count(counts: NDArray, coding: Coding) -> NDArray[np.int32]:
    """Spikes that each count costs: |s|, or its ones in binary where ``bitwise``."""
    magnitude = np.abs(counts.astype(np.int32))
    return np.bitwise_count(magnitude).astype(np.int32) if coding == "bitwise" else magnitude
