"""Confidence intervals over windows (percentile bootstrap, Efron, Annals of Statistics 7, 1979), seeded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["interval_of_mean"]


def interval_of_mean(
    values: Sequence[float], confidence: float = 0.95, draws: int = 2000
) -> tuple[float, float]:
    """The interval of the mean of one value a window."""
    array = np.asarray(values, np.float64)
    picks = np.random.default_rng(0).integers(0, len(array), (draws, len(array)))
    low, high = np.quantile(array[picks].mean(1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
